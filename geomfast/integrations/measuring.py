"""The measures of any model on any data: what trackers and series of checkpoints record."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators import gradients, spectra
from geomfast.estimators.batches import Batches, batches_of, count, one_batch, parts, taken
from geomfast.estimators.checks import LossFunction, chosen
from geomfast.estimators.guard import left_alone, uncompiled
from geomfast.estimators.llc import LLC
from geomfast.estimators.sampling import calibrate
from geomfast.estimators.values import Value, gradient_values, hessian_values, llc_values
from geomfast.integrations.evaluation import evaluating, unfolded
from geomfast.integrations.memory import Notice, halving, logger, out_of_memory
from geomfast.integrations.options import GRADIENTS, Options

#: Names as a sweep's, in the order they are taken.
MEASURES = (
    "rankme",
    "fisher_rank",
    "gradient_covariance_rank",
    "hessian_top",
    "hessian_trace",
    "llc",
)
#: How :func:`geomfast.llc` begins to say that a model's chains are no one program.
_OF_CHAINS = "chains run one after the other"
#: Samples at once when a model is looked at before it is measured.
_FEW = 4
#: Gives every layer's activations, label -> (N, d), at the model's present weights.
States = Callable[[], Mapping[str, Tensor]]


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
        TypeError: something other than names.
        ValueError: an unknown one.
    """
    if not isinstance(measures, Iterable):
        raise TypeError(f"measures must be names of measures, not {type(measures).__name__}")
    measures = list(measures)
    if wrong := [name for name in measures if not isinstance(name, str)]:
        raise TypeError(f"measures must be names of measures, not {wrong[0]!r:.60}")
    wanted = set(measures)
    if unknown := sorted(wanted - set(MEASURES)):
        raise ValueError(
            f"measures: unknown measure {unknown[0]!r}; there are: {', '.join(MEASURES)}"
        )
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

    It is measured in evaluation mode, which it enters and leaves through its modules' own `eval`
    and `train`; its modes, gradients, weights, buffers and attributes, the global random numbers
    and the default type stay as they are. Parameters that no loss depends on, as of a head that is
    not used, count for nothing: a notice names them all.

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
        notice: told in a sentence what had to be changed for want of memory, and of parameters
            that no loss depends on.

    Returns:
        One value after the other, in the order of :data:`MEASURES`, rankme by layer.

    Raises:
        ValueError: an unknown measure; rankme without states; the others without loss or data;
            a model whose `eval` cannot be undone for gradients; and whatever the measures
            themselves refuse, see :mod:`geomfast`.
        RuntimeError: a module's own `train` or `eval` failed; the message names it.
    """
    options, model = options or Options(), uncompiled(model)
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
            batches = _first(batches_of(data), options.samples)
            _, few = next(parts(batches[0], 2))
            taking = _Taking(model, loss_fn, batches, notice)
            with (
                unfolded(model, lambda: loss_fn(model, few)),
                only(model, options.params, loss_fn, batches, notice),
            ):
                found += taking.all(rest, options)
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

    def __init__(self, model: nn.Module, loss_fn: LossFunction, batches: Batches, notice: Notice):
        self.model, self.loss_fn, self.batches, self.notice = model, loss_fn, batches, notice
        sizes = [count(batch, least=1) for batch in batches]
        self.samples, self.largest = sum(sizes), max(sizes)

    def all(self, names: list[str], options: Options) -> list[Found]:
        """The values of some measures, in their order."""
        found: list[Found] = []
        if ranks := [name for name in names if name in GRADIENTS]:
            found += self.gradient_ranks(ranks, options)
        for name in names:
            if name.startswith("hessian"):
                found += self.hessian(name, options)
        if "llc" in names:
            found += self.llc(options)
        return found

    def gradient_ranks(self, names: list[str], options: Options) -> Iterator[Found]:
        """One backward pass serves both ranks, exact and over the first entries."""
        begin = time.perf_counter()
        batch = one_batch(self.batches)
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
        call = {key: settings[key] for key in settings.keys() - {"measure", "samples", "params"}}
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
        call = {key: settings[key] for key in settings.keys() - {"measure", "samples", "params"}}
        call["nbeta"] = options.llc_nbeta
        if options.llc_batch_size is None:
            together = self.largest
        else:
            together = call["batch_size"] = min(options.llc_batch_size, self.samples)

        def sampled(at_once: int) -> LLC | None:
            call["at_once"] = at_once
            try:
                with _told(self.notice):
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


@contextmanager
def _told(notice: Notice) -> Iterator[None]:
    """What is logged inside of how chains run is told as a notice, which a tracker gives once."""
    said: list[str] = []

    def kept(record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith(_OF_CHAINS):
            return True
        said.append(record.getMessage())
        return False

    logger.addFilter(kept)
    try:
        yield
    finally:
        logger.removeFilter(kept)
        for line in said:
            notice(line)


def _first(batches: Batches, samples: int | None) -> Batches:
    """The batches, as far as their first samples."""
    if samples is None:
        return batches
    kept = Batches()
    for batch in batches:
        has = count(batch, least=1)
        kept.append(batch if has <= samples else taken(batch, torch.arange(samples, device="cpu")))
        samples -= has
        if samples <= 0:
            break
    return kept


def _cut(batches: Batches, size: int) -> Batches:
    """The batches in parts of at most so many samples."""
    return Batches(part for batch in batches for _, part in parts(batch, size))


@contextmanager
def only(
    model: nn.Module,
    params: Iterable[str] | None,
    loss_fn: LossFunction,
    batches: Batches,
    notice: Notice,
) -> Iterator[None]:
    """Inside, no parameter requires gradients but those that are to be measured, and used.

    Args:
        model, loss_fn: in evaluation mode.
        params: of :class:`Options`.
        batches: of the data.
        notice: told which no loss depends on.

    Raises:
        ValueError: a pattern matches no parameter, or none is left.
    """
    wanted, _ = chosen(model, params)
    unused = _unused(model, wanted, loss_fn, batches)
    if unused and len(unused) < len(wanted):
        notice(
            f"no sample's loss depends on {', '.join(unused)}: they count for nothing; "
            f"Options(params={_without(unused, model)}) leaves them out"
        )
        wanted = {name: p for name, p in wanted.items() if name not in unused}
    put_aside = [
        p for name, p in model.named_parameters() if p.requires_grad and name not in wanted
    ]
    for parameter in put_aside:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in put_aside:
            parameter.requires_grad_(True)


def _unused(
    model: nn.Module, wanted: Mapping[str, Tensor], loss_fn: LossFunction, batches: Batches
) -> list[str]:
    """Those parameters that the loss of no sample depends on."""
    left = dict(wanted)

    def look(at_once: int) -> None:
        nonlocal left
        for batch in batches:
            for _, part in parts(batch, at_once):
                losses = loss_fn(model, part)
                found = torch.autograd.grad(losses.sum(), [*left.values()], allow_unused=True)
                left = {
                    name: p for (name, p), g in zip(left.items(), found, strict=True) if g is None
                }
                if not left:
                    return

    try:
        with left_alone(model):
            halving(look, _FEW, "looking for unused parameters", notice=lambda said: None)
    except Exception:
        return []  # what is wrong with the model, its loss or the data, the measures say
    return list(left)


def _without(unused: list[str], model: nn.Module) -> tuple[str, ...]:
    """Patterns that leave these out: a module's whole where no other of its parameters is used."""
    patterns: list[str] = []
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    for name in unused:
        ends = [i for i, letter in enumerate(name) if letter == "."]
        for whole in [f"{name[:i]}.*" for i in ends]:
            inside = [one for one in names if one.startswith(whole[:-1])]
            if set(inside) <= set(unused):
                patterns.append(f"!{whole}")
                break
        else:
            patterns.append(f"!{name}")
    return tuple(dict.fromkeys(patterns))
