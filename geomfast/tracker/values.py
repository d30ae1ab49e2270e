"""Measures a tracker's copy of a model: values, or the reason for a missing one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.batches import Batches, count, index_batch
from geomfast.estimators.behaviour import mean_and_stderr
from geomfast.estimators.checks import LossFunction, checked_losses, select_parameters
from geomfast.files import fingerprint
from geomfast.measures.catalog import measure_of, needing, spec_of
from geomfast.measures.memory import Notice
from geomfast.measures.model.measuring import MeasuredValue, measure_model
from geomfast.measures.model.options import ModelSettings
from geomfast.measures.model.states import NoStates, UnknownModule, activations
from geomfast.measures.spec import FAILED, OF_ACTIVATIONS, Need
from geomfast.records import MIXTURE
from geomfast.records.ranges import ranges
from geomfast.tracker.arguments import check_states
from geomfast.tracker.budget import Group

#: Mean loss of the samples; what the loop says of its own; time added so far, as a share.
LOSS, TRAIN_LOSS, OVERHEAD = "loss", "train_loss", "tracker_overhead"
#: Letters of a scalar's name.
_LONGEST = 100
#: Activations by layer label, of a model.
StatesOf = Callable[[nn.Module], Mapping[str, Tensor]]
#: Name of a set of samples, and a value of it.
Sampled = tuple[str, MeasuredValue]


class _Kept:
    """Vectors that single measures want to have again; every search starts anew."""

    def __init__(self) -> None:
        self._vectors: dict[str, Tensor] = {}

    def start(self, number: int, of: str = "") -> Tensor | None:
        return self._vectors.get(of)

    def keep(self, number: int, vectors: Tensor, of: str = "") -> None:
        if of:
            self._vectors[of] = vectors.detach().cpu()

    def earlier(self, measure: str, number: int) -> None:
        """Nothing: a tracker that is resumed would compare with other steps."""


def learning_rate_of(optimizer: Any) -> float | None:
    """That of all groups of an optimiser's parameters; None where they differ, or without one."""
    if optimizer is None:
        return None
    rates = {float(group["lr"]) for group in optimizer.param_groups}
    return rates.pop() if len(rates) == 1 else None


@dataclass
class Evaluator:
    """The measures of a module on some sets of samples.

    Attributes:
        module: in evaluation mode.
        measures: names, checked.
        loss_fn, how: as :func:`geomfast.measures.model.measuring.measure_model` takes them.
        sets: samples by name.
        states: activations for rankme; None for those of ``layers``.
        layers: names of the modules that are the blocks, and the last of them the final state;
            None for what :func:`geomfast.measures.model.states.activations` finds.
        notice: told what had to be changed for want of memory.
        optimizer: of the training, whose learning rate is read; None where it is not known.
    """

    module: nn.Module
    measures: Sequence[str]
    loss_fn: LossFunction | None
    sets: Mapping[str, Batches]
    how: ModelSettings
    states: StatesOf | None
    layers: Sequence[str] | None
    notice: Notice
    optimizer: Any = None

    def __post_init__(self) -> None:
        self._kept = {name: _Kept() for name in self.sets}

    def validate(self) -> None:
        """Run the model on two samples, so that what cannot work is known before training.

        Raises:
            TypeError, ValueError: as the measures would; ValueError for what the model or the loss
                raises, and for parameters asked for that the model does not have.
        """
        shown = bool(needing(self.measures, *OF_ACTIVATIONS))
        if self.states is not None and shown:
            self._activations(Batches())
        for name, batches in self.sets.items():
            try:
                self._validate_on(batches, shown)
            except (TypeError, ValueError) as error:
                if len(self.sets) == 1 or isinstance(error, (NoStates, UnknownModule)):
                    raise  # what the layers lack, they lack of every set
                kind = TypeError if isinstance(error, TypeError) else ValueError
                said = f"{error} (on the samples {name!r} of data, a mapping of several sets; as "
                raise kind(f"{said}one batch it is [data])") from error
        if self.how.params is not None:
            select_parameters(self.module, self.how.params)

    def _validate_on(self, batches: Batches, shown: bool) -> None:
        if not batches:
            return
        two = index_batch(
            batches[0], torch.arange(min(2, count(batches[0], least=1)), device="cpu")
        )
        if self.loss_fn is not None:
            with torch.no_grad(), _named("loss_fn(model, batch)"):
                losses = self.loss_fn(self.module, two)
            checked_losses(losses, count(two, least=1), differentiable=False)
        if shown and self.states is None:
            with _named("the model"):
                self._states_of(Batches([two]))

    @property
    def groups(self) -> list[Group]:
        """The measures in groups that share a pass, cheapest passes first."""
        names = [[LOSS]] if self.loss_fn is not None else []
        names += [needing(self.measures, *needs) for needs in (OF_ACTIVATIONS, (Need.GRADIENTS,))]
        alike: dict[str, list[str]] = {}
        for name in needing(self.measures, Need.CURVATURE, Need.CHAINS):
            alike.setdefault(spec_of(name).shares or name, []).append(name)
        names += alike.values()
        return [
            Group(tuple(one), any(spec_of(name).expensive for name in one if name != LOSS))
            for one in names
            if one
        ]

    def measure(self, group: Group, failed: Callable[[str, Exception], None]) -> list[Sampled]:
        """The values of a group, on every set of samples.

        Args:
            group: of :attr:`groups`.
            failed: told of a measure that could not be taken, whose value then is NaN.
        """
        return [
            (name, value)
            for name, batches in self.sets.items()
            for value in self._guarded(group.names, batches, failed, self._kept[name])
        ]

    def _guarded(
        self,
        names: Sequence[str],
        batches: Batches,
        failed: Callable[[str, Exception], None],
        kept: _Kept,
    ) -> list[MeasuredValue]:
        try:
            if LOSS in names:
                return self._mean_loss(batches)
            return measure_model(
                self.module,
                self.loss_fn,
                batches,
                names,
                self.how,
                states=lambda: self._activations(batches),
                notice=self.notice,
                state=kept,
                learning_rate=learning_rate_of(self.optimizer),
            )
        except Exception as error:
            for name in names:
                failed(name, error)
            nan = math.nan
            return [
                MeasuredValue(name, "", nan, nan, 0, 0.0, FAILED, self.settings(name))
                for name in names
            ]

    def settings(self, name: str) -> dict[str, Any]:
        """Settings that the values of a measure depend on."""
        if name == LOSS:
            return {"measure": LOSS, "samples": self.how.samples}
        return self.how.of(name)

    def _activations(self, batches: Batches) -> Mapping[str, Tensor]:
        if self.states is not None:
            with torch.no_grad():
                return check_states(self.states(self.module))
        return self._states_of(batches)

    def _states_of(self, batches: Batches) -> dict[str, Tensor]:
        named = {}
        if self.layers is not None:
            named = {"layers": self.layers[:-1], "final": self.layers[-1]}
        return activations(
            self.module,
            batches,
            position=self.how.position,
            batch_size=self.how.batch_size,
            notice=self.notice,
            **named,
        )

    @torch.no_grad()
    def _mean_loss(self, batches: Batches) -> list[MeasuredValue]:
        assert self.loss_fn is not None
        begin = time.perf_counter()
        size = self.how.batch_size
        losses = []
        for batch in batches:
            samples = count(batch, least=1)
            for part in torch.arange(samples, device="cpu").split(size or samples):
                found = self.loss_fn(self.module, index_batch(batch, part))
                losses.append(checked_losses(found, len(part), differentiable=False))
        together = torch.cat(losses).double()
        mean, stderr = mean_and_stderr(together)
        seconds = time.perf_counter() - begin
        settings = self.settings(LOSS)
        return [MeasuredValue(LOSS, "", mean, stderr, len(together), seconds, "torch", settings)]


def values_of_run(
    loss: Any,
    overhead: float | None,
    scalars: Mapping[str, Any],
    failed: Callable[[str, Exception], None],
) -> list[MeasuredValue]:
    """Values of the training itself at this step.

    Args:
        loss: of training, a number or a tensor of one element; None where it was not said.
        overhead: of the tracker; None before there is one.
        scalars: of the loop's own, by name.
        failed: told of a loss or scalar that is no number, or of a name that is taken.
    """
    known = {} if overhead is None else {OVERHEAD: overhead}
    said = {} if loss is None else {TRAIN_LOSS: loss}
    for name, value in (*said.items(), *scalars.items()):
        try:
            if name in scalars:
                _check_free(name)
            known[name] = float(value.detach() if isinstance(value, Tensor) else value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            failed(name, error)
    return [
        MeasuredValue(name, "", value, math.nan, 1, 0.0, "", {"measure": name})
        for name, value in known.items()
    ]


def _check_free(name: str) -> None:
    """Raises ValueError for a name that records of something else have."""
    taken = name in ranges() or name in (LOSS, TRAIN_LOSS, OVERHEAD) or measure_of(name)
    if taken or not name.isidentifier() or len(name) > _LONGEST:
        raise ValueError(
            f"{name!r:.80} cannot name a number of the loop's own: it is that of other records, or "
            "no name; call it something else"
        )


def rows_of(
    found: Iterable[Sampled],
    data: Mapping[str, str],
    of_run: Iterable[MeasuredValue],
    shared: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Values as rows of the records, and what their hashes of settings stand for.

    Args:
        found: of sets of samples.
        data: hash of every set.
        of_run: values of the run itself.
        shared: by all rows.
    """
    task, level = MIXTURE
    named = [({"task": name, "level": 1, "data": data[name]}, value) for name, value in found]
    named += [({"task": task, "level": level, "data": ""}, value) for value in of_run]
    rows, told = [], {}
    for name, one in named:
        settings = fingerprint(one.settings)
        told[settings] = one.settings
        values = {key: getattr(one, key) for key in ("measure", "layer", "value", "stderr", "n")}
        how = {"settings": settings, "backend": one.backend, "seconds": one.seconds}
        rows.append({**name, **values, **how, **shared})
    return rows, told


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors within the context are reported as failures of the first trial of the samples.

    Raises:
        NoStates: as inside.
        ValueError: anything else that fails.
    """
    try:
        yield
    except (NoStates, UnknownModule):
        raise
    except Exception as error:
        raise ValueError(
            f"the samples could not be put through the model: {what} raised "
            f"{type(error).__name__}: {error}"
        ) from error
