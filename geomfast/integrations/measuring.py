"""The measures of any model on any data: what trackers and series of checkpoints record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.integrations.memory import Notice, halving, logger, out_of_memory
from geomfast.integrations.states import POSITIONS, evaluating
from geomfast.measures import gradients, spectra
from geomfast.measures.checks import LossFunction, batches_of, count
from geomfast.measures.llc import LLC
from geomfast.measures.sampling import calibrate
from geomfast.measures.sampling.streams import concatenated, parts, taken
from geomfast.measures.values import Value, gradient_values, hessian_values, llc_values

#: Names as a sweep's, in the order they are taken.
MEASURES = (
    "rankme",
    "fisher_rank",
    "gradient_covariance_rank",
    "hessian_top",
    "hessian_trace",
    "llc",
)
_GRADIENTS = ("fisher_rank", "gradient_covariance_rank")
#: Gives every layer's activations, label -> (N, d), at the model's present weights.
States = Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Options:
    """How measures are taken.

    Attributes:
        samples: at most this many of the data, its first; None for all.
        batch_size: samples at once for activations and the Hessian, which it does not change; None
            for a batch as it comes. Halved, with a notice, where memory does not suffice.
        position: where :func:`geomfast.integrations.states.activations` reads a sample's vector.
        center, eps: of :func:`geomfast.rankme`.
        first_entries: number of parameter entries of the truncated gradient ranks.
        check: see that no sample's gradient depends on the other samples.
        hessian_k, hessian_tol, hessian_iterations: of :func:`geomfast.hessian_top_eigenvalues`;
            the largest eigenvalue is recorded.
        hessian_probes: of :func:`geomfast.hessian_trace`.
        llc_lr, llc_localization, llc_chains, llc_draws, llc_burn_in, llc_batch_size, llc_nbeta: of
            :func:`geomfast.llc`. A minibatch has at most as many samples as there are; an nbeta of
            None is n / log n.
        seed: of every random number.
    """

    samples: int | None = None
    batch_size: int | None = None
    position: str = "last"
    center: bool = False
    eps: float = 0.0
    first_entries: int = 50_000
    check: bool = True
    hessian_k: int = 1
    hessian_tol: float = 1e-3
    hessian_iterations: int = 100
    hessian_probes: int = 30
    llc_lr: float = 2e-5
    llc_localization: float = 3000.0
    llc_chains: int = 2
    llc_draws: int = 200
    llc_burn_in: int = 50
    llc_batch_size: int | None = 32
    llc_nbeta: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.position not in POSITIONS:
            expected = ", ".join(POSITIONS)
            raise ValueError(f"position must be one of {expected}, not {self.position!r}")
        for name, value in asdict(self).items():
            least = 2 if name == "samples" else 1
            whole = name in ("samples", "batch_size", "llc_batch_size", "first_entries")
            if whole and value is not None and value < least:
                raise ValueError(f"{name} must be {least} or more, not {value}")

    def of(self, measure: str) -> dict[str, Any]:
        """The settings that shape a measure's value, as records keep them."""
        if measure == "rankme":
            own = {"position": self.position, "center": self.center, "eps": self.eps}
        elif measure in _GRADIENTS:
            own = {"labels": "data", "first entries": self.first_entries}
        elif measure == "hessian_top":
            tol, most = self.hessian_tol, self.hessian_iterations
            own = {"k": self.hessian_k, "tol": tol, "max_iterations": most, "seed": self.seed}
        elif measure == "hessian_trace":
            own = {"probes": self.hessian_probes, "seed": self.seed}
        else:
            fields = [name for name in asdict(self) if name.startswith("llc_")]
            own = {name.removeprefix("llc_"): getattr(self, name) for name in fields}
            # By its rule, as sets of different sizes are measured in one and the same way.
            own |= {"nbeta": self.llc_nbeta or "n / log n", "seed": self.seed}
        return {"measure": measure, "samples": self.samples, **own}


@dataclass(frozen=True)
class Found:
    """One value.

    Attributes:
        measure: the name it is recorded by: ``llc`` has ``llc_rhat`` and others beside it.
        layer: ``block 1`` ... ``final``; empty where there is none.
        value, stderr: NaN for an error that is not defined.
        n: samples behind it.
        seconds: that it took.
        backend: kernel backend that computed it.
        settings: that it was asked for by. What is done for want of memory is not among them, as
            it changes no more than the rounding.
    """

    measure: str
    layer: str
    value: float
    stderr: float
    n: int
    seconds: float
    backend: str
    settings: dict[str, Any]


def check_measures(measures: Iterable[str]) -> list[str]:
    """The named measures, each once, in the order they are taken.

    Raises:
        ValueError: an unknown one.
    """
    wanted = set(measures)
    if unknown := sorted(wanted - set(MEASURES)):
        raise ValueError(f"unknown measure {unknown[0]!r}; there are: {', '.join(MEASURES)}")
    return [name for name in MEASURES if name in wanted]


def measure_model(
    model: nn.Module,
    loss_fn: LossFunction | None,
    data: Any,
    measures: Iterable[str],
    options: Options | None = None,
    *,
    states: States | None = None,
    notice: Notice = logger.warning,
) -> list[Found]:
    """Takes the named measures of a model as it is.

    It is measured in evaluation mode; its mode, gradients and weights, the global random numbers
    and the default type stay as they are.

    Args:
        model: any module.
        loss_fn: `loss_fn(model, batch) -> (N,)`, one differentiable loss per sample; may be None
            for rankme alone.
        data: one batch, or an iterable of batches, which the measures of gradients join to one.
            What `options.samples` leaves out is the last of it.
        measures: names from :data:`MEASURES`.
        options: how; None for the defaults.
        states: activations for rankme, of samples of its own choice. Where it is needed, it is
            called once, in evaluation mode.
        notice: told in a sentence what had to be changed for want of memory.

    Returns:
        One value after the other, in the order of :data:`MEASURES`, rankme by layer.

    Raises:
        ValueError: an unknown measure; rankme without states; the others without loss or data;
            and whatever the measures themselves refuse, see :mod:`geomfast`.
    """
    options = options or Options()
    wanted = check_measures(measures)
    found: list[Found] = []
    with evaluating(model):
        if "rankme" in wanted:
            if states is None:
                raise ValueError("rankme needs states: a function that gives activations by layer")
            found += _rankme(states, options)
        rest = [name for name in wanted if name != "rankme"]
        if rest:
            if loss_fn is None or data is None:
                raise ValueError(f"{rest[0]} needs a loss_fn and data")
            taking = _Taking(model, loss_fn, _first(batches_of(data), options.samples), notice)
            ranks = [name for name in rest if name in _GRADIENTS]
            if ranks:
                found += taking.gradient_ranks(ranks, options)
            for name in rest:
                if name.startswith("hessian"):
                    found += taking.hessian(name, options)
            if "llc" in rest:
                found += taking.llc(options)
    return found


def _rankme(states: States, options: Options) -> Iterator[Found]:
    begin = time.perf_counter()
    layers = states()
    if not layers:
        raise ValueError("states gave no layer")
    # Layers of one shape go through the kernel together.
    groups: dict[Any, list[str]] = {}
    for label, x in layers.items():
        groups.setdefault((x.shape, x.dtype, x.device), []).append(label)
    values: dict[str, tuple[float, str]] = {}
    for labels in groups.values():
        stacked = torch.stack([layers[label] for label in labels])
        ranks = spectra.rankme(stacked, center=options.center, eps=options.eps).tolist()
        ran_on = spectra.backend(stacked)
        values |= {label: (rank, ran_on) for label, rank in zip(labels, ranks, strict=True)}
    seconds = (time.perf_counter() - begin) / len(layers)
    for label, x in layers.items():
        value, ran_on = values[label]
        if math.isnan(value):  # from a backend that does not wait for the GPU to raise
            raise ValueError(f"activations at {label} are not finite")
        settings = options.of("rankme")
        yield Found("rankme", label, value, math.nan, len(x), seconds, ran_on, settings)


class _Taking:
    """The measures of a model's loss.

    Args:
        model, loss_fn: in evaluation mode.
        batches: of the data.
        notice: as in :func:`measure_model`.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction, batches: list[Any], notice: Notice):
        self.model, self.loss_fn, self.batches, self.notice = model, loss_fn, batches, notice
        sizes = [count(batch, least=1) for batch in batches]
        self.samples, self.largest = sum(sizes), max(sizes)

    def gradient_ranks(self, names: list[str], options: Options) -> Iterator[Found]:
        """One backward pass serves both ranks, exact and over the first entries."""
        begin = time.perf_counter()
        batch = concatenated(self.batches)
        exact, first = halving(
            lambda at_once: gradients.gradient_ranks(
                self.model,
                self.loss_fn,
                batch,
                first=options.first_entries,
                check=options.check,
                at_once=at_once,
            ),
            self.samples,
            "the Gram matrix of gradients",
            least=2,
            notice=self.notice,
        )
        ran_on = gradients.backend(next(self.model.parameters()))
        seconds = (time.perf_counter() - begin) / (2 * len(names))
        for name in names:
            values = gradient_values(name, exact, first)
            yield from self._found(values, seconds, ran_on, options.of(name))

    def hessian(self, name: str, options: Options) -> Iterator[Found]:
        """One measure of the Hessian, which the size of batches does not change."""
        begin = time.perf_counter()
        settings = options.of(name)
        call = {key: settings[key] for key in settings.keys() - {"measure", "samples"}}
        values, _ = halving(
            lambda size: hessian_values(
                self.model, self.loss_fn, _cut(self.batches, size), name, **call
            ),
            min(options.batch_size or self.largest, self.largest),
            f"{name} of the Hessian",
            notice=self.notice,
        )
        seconds = (time.perf_counter() - begin) / len(values)
        yield from self._found(values, seconds, "torch", settings)

    def llc(self, options: Options) -> Iterator[Found]:
        """The local learning coefficient.

        For want of memory chains run one after the other, and then the gradients of a minibatch
        add up over parts of it. Neither changes what is estimated.
        """
        begin = time.perf_counter()
        settings = options.of("llc")
        call = {key: settings[key] for key in settings.keys() - {"measure", "samples"}}
        call["nbeta"] = options.llc_nbeta
        if options.llc_batch_size is None:
            together = self.largest
        else:
            together = call["batch_size"] = min(options.llc_batch_size, self.samples)

        def sampled(at_once: int) -> LLC | None:
            call["at_once"] = at_once
            try:
                return calibrate.attempt(self.model, self.loss_fn, self.batches, **call)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or options.llc_chains == 1 or "stacked" in call:
                    raise
            self.notice("out of memory: chains of the llc go on one after the other")
            call["stacked"] = False
            return calibrate.attempt(self.model, self.loss_fn, self.batches, **call)

        found = halving(sampled, together, "sampling the llc", notice=self.notice)
        values = list(llc_values(found, options.llc_chains))
        seconds = (time.perf_counter() - begin) / len(values)
        yield from self._found(values, seconds, calibrate.backend(self.model), settings)

    def _found(
        self, values: Iterable[Value], seconds: float, ran_on: str, settings: dict[str, Any]
    ) -> Iterator[Found]:
        for name, value, stderr in values:
            yield Found(name, "", value, stderr, self.samples, seconds, ran_on, settings)


def _first(batches: list[Any], samples: int | None) -> list[Any]:
    """The batches, as far as their first samples."""
    if samples is None:
        return batches
    kept = []
    for batch in batches:
        has = count(batch, least=1)
        kept.append(batch if has <= samples else taken(batch, torch.arange(samples, device="cpu")))
        samples -= has
        if samples <= 0:
            break
    return kept


def _cut(batches: list[Any], size: int) -> list[Any]:
    """The batches in parts of at most so many samples."""
    return [part for batch in batches for _, part in parts(batch, size)]
