"""The measures of any model on any data: what trackers and series of checkpoints record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.batches import Batches, batches_of, count, index_batch, parts
from geomfast.estimators.checks import LossFunction, select_parameters
from geomfast.estimators.guard import left_alone, uncompiled
from geomfast.measures.catalog import ONE_PASS, needing, one_pass, spec_of
from geomfast.measures.catalog import measures as known_measures
from geomfast.measures.engine import measure
from geomfast.measures.memory import Notice, halving, logger
from geomfast.measures.model.evaluation import evaluating, unfolded
from geomfast.measures.model.options import ModelSettings
from geomfast.measures.model.options import Options as Options
from geomfast.measures.spec import OF_ACTIVATIONS
from geomfast.measures.subject import Policy, Samples, Seen, State, Subject

#: Measures that need no answers of the samples, in the order they are taken.
MEASURES = tuple(name for name in known_measures() if not spec_of(name).labelled)
#: Samples at once when a model is looked at before it is measured.
_FEW = 4
#: Gives every layer's activations, label -> (N, d), at the model's present weights.
States = Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class MeasuredValue:
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
        verdict: how reliable the value is; may be empty.
    """

    measure: str
    layer: str
    value: float
    stderr: float
    n: int
    seconds: float
    backend: str
    settings: dict[str, Any]
    verdict: str = ""


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
    for name in sorted(wanted - set(MEASURES)):
        why = f"unknown measure {name!r:.60}"
        if name in known_measures():
            why = f"{name} needs an answer of every sample, which any model's samples have not"
        raise ValueError(f"measures: {why}; there are: {', '.join(MEASURES)}")
    return [name for name in MEASURES if name in wanted]


def named_measures(measures: str | Iterable[str]) -> list[str]:
    """As :func:`check_measures`, of one name too, and of "cheap", "one-pass" and "all".

    Raises:
        TypeError, ValueError: as :func:`check_measures`.
    """
    cheap = one_pass(MEASURES)
    usual = [name for name in cheap if spec_of(name).core]
    words: dict[str, Iterable[str]] = {"all": MEASURES, ONE_PASS: cheap, "cheap": usual}
    names: Any = [measures] if isinstance(measures, str) else measures
    if isinstance(names, Iterable):
        names = [one for name in names for one in _meant(name, words)]
    return check_measures(names)


def _meant(name: Any, words: Mapping[str, Iterable[str]]) -> Iterable[Any]:
    """A word's measures; anything else as it is."""
    return words.get(name, [name]) if isinstance(name, str) else [name]


def measure_model(
    model: nn.Module,
    loss_fn: LossFunction | None,
    data: Any,
    measures: Iterable[str],
    how: ModelSettings | None = None,
    *,
    states: States | None = None,
    notice: Notice = logger.warning,
    failed: Callable[[str, Exception], None] | None = None,
    state: State | None = None,
    learning_rate: float | None = None,
) -> list[MeasuredValue]:
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
            What `how.samples` leaves out is the last of it.
        measures: names from :data:`MEASURES`.
        how: None for the defaults.
        states: activations for rankme, of samples of its own choice. Where it is needed, it is
            called once, in evaluation mode.
        notice: told in a sentence what had to be changed for want of memory, and of parameters
            that no loss depends on.
        failed: called when a measure fails, whose value then is NaN; None to raise.
        state: vectors that earlier calls kept; None for none.
        learning_rate: of the training at this moment, where it is known.

    Returns:
        One value after the other, in the order of :data:`MEASURES`, rankme by layer.

    Raises:
        ValueError: an unknown measure; rankme without states; the others without loss or data;
            a model whose `eval` cannot be undone for gradients; and whatever the measures
            themselves refuse, see :mod:`geomfast`.
        RuntimeError: a module's own `train` or `eval` failed; the message names it.
    """
    how, model = how or ModelSettings(), uncompiled(model)
    wanted = check_measures(measures)
    shown = needing(wanted, *OF_ACTIVATIONS)
    rest = [name for name in wanted if name not in shown]
    found: list[MeasuredValue] = []
    policy = Policy(how.batch_size, how.check, notice, failed)
    with evaluating(model):
        if shown:
            if states is None:
                raise ValueError(
                    f"{shown[0]} needs states: a function that gives activations by layer"
                )
            subject = Model(model, None, None, states)
            found += _found(subject, shown, how, policy)
        if rest:
            if loss_fn is None or data is None:
                raise ValueError(f"{rest[0]} needs a loss_fn and data")
            batches = _first(batches_of(data), how.samples)
            _, few = next(parts(batches[0], 2))
            subject = Model(model, loss_fn, batches, None)
            subject.learning_rate = learning_rate
            with (
                unfolded(model, lambda: loss_fn(model, few)),
                only(model, how.params, loss_fn, batches, notice),
            ):
                found += _found(subject, rest, how, policy, state)
    return found


def _found(
    subject: Subject,
    names: Sequence[str],
    how: ModelSettings,
    policy: Policy,
    state: State | None = None,
) -> Iterator[MeasuredValue]:
    settings = {name: how.of(name) for name in names}
    wanted = {name: how.settings_of(name) for name in names}
    for row in measure(subject, wanted, policy, state):
        named = {name: row[name] for name in ("measure", "layer", "value", "stderr", "n")}
        backend = {name: row[name] for name in ("seconds", "backend")}
        yield MeasuredValue(
            **named, **backend, settings=settings[row["of"]], verdict=row["verdict"]
        )


class Model(Subject):
    """Any model, its loss on some data, and activations of samples of its own choice.

    Args:
        model: in evaluation mode.
        loss_fn, batches: of the samples; None for activations alone.
        states: activations by layer; None where no measure needs them.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction | None,
        batches: Batches | None,
        states: States | None,
    ):
        self.model, self._states = model, states
        n = sum(count(batch, least=1) for batch in batches) if batches else 0
        self.sets = [Samples({"n": n}, loss_fn, batches)]

    def observe(self) -> list[Seen]:
        """Layers of one shape go through a kernel together."""
        layers = self._states() if self._states is not None else {}
        if not layers:
            raise ValueError("states gave no layer")
        alike: dict[Any, list[str]] = {}
        for label, x in layers.items():
            alike.setdefault((x.shape, x.dtype, x.device), []).append(label)
        groups = [
            (labels, torch.stack([layers[label] for label in labels])[None])
            for labels in alike.values()
        ]
        return [Seen(groups)]


def _first(batches: Batches, samples: int | None) -> Batches:
    """The batches, as far as their first samples."""
    if samples is None:
        return batches
    kept = Batches()
    for batch in batches:
        has = count(batch, least=1)
        kept.append(
            batch if has <= samples else index_batch(batch, torch.arange(samples, device="cpu"))
        )
        samples -= has
        if samples <= 0:
            break
    return kept


@contextmanager
def only(
    model: nn.Module,
    params: Iterable[str] | None,
    loss_fn: LossFunction,
    batches: Batches,
    notice: Notice,
) -> Iterator[None]:
    """Within the context, only parameters that are measured and used require gradients.

    Args:
        model, loss_fn: in evaluation mode.
        params: of :class:`~geomfast.measures.model.options.ModelSettings`.
        batches: of the data.
        notice: called with a message about parameters that no loss depends on.

    Raises:
        ValueError: a pattern matches no parameter, or none is left.
    """
    wanted, _ = select_parameters(model, params)
    unused = _unused(model, wanted, loss_fn, batches)
    if unused and len(unused) < len(wanted):
        notice(
            f"no sample's loss depends on {', '.join(unused)}: they count for nothing; "
            f"params={_without(unused, model)} leaves them out"
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
    """Parameters that no sample's loss depends on."""
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
