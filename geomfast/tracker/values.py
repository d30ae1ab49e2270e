"""What a tracker takes of its copy of a model: values, or why there is none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.batches import Batches, count, taken
from geomfast.estimators.behaviour import mean_and_stderr
from geomfast.estimators.checks import LossFunction, checked_losses, chosen
from geomfast.files import fingerprint
from geomfast.measures.catalog import measure_of, needing
from geomfast.measures.engine import FAILED
from geomfast.measures.memory import Notice
from geomfast.measures.model.measuring import MeasuredValue, Options, measure_model
from geomfast.measures.model.states import NoStates, UnknownModule, activations
from geomfast.measures.spec import Need
from geomfast.records.ranges import ranges
from geomfast.tracker.arguments import check_states

#: Mean loss of the samples; what the loop says of its own; time added so far, as a share.
LOSS, TRAIN_LOSS, OVERHEAD = "loss", "train_loss", "tracker_overhead"
#: Letters of a scalar's name.
_LONGEST = 100
#: Activations by layer label, of a model.
StatesOf = Callable[[nn.Module], Mapping[str, Tensor]]


@dataclass
class Evaluator:
    """The measures of a module on some samples.

    Attributes:
        module: in evaluation mode.
        measures: names, checked.
        loss_fn, batches, options: as :func:`geomfast.measures.model.measuring.measure_model` takes
            them.
        states: activations for rankme; None for those of ``layers``.
        layers: names of the modules that are the blocks, and the last of them the final state;
            None for what :func:`geomfast.measures.model.states.activations` finds.
        notice: told what had to be changed for want of memory.
    """

    module: nn.Module
    measures: Sequence[str]
    loss_fn: LossFunction | None
    batches: Batches
    options: Options
    states: StatesOf | None
    layers: Sequence[str] | None
    notice: Notice

    def validate(self) -> None:
        """Run the model on two samples, so that what cannot work is known before training.

        Raises:
            TypeError, ValueError: as the measures would; ValueError for what the model or the loss
                raises, and for parameters asked for that the model does not have.
        """
        shown = bool(needing(self.measures, Need.ACTIVATIONS))
        if self.states is not None and shown:
            self._activations()
        if not self.batches:
            return
        batch = self.batches[0]
        two = taken(batch, torch.arange(min(2, count(batch, least=1)), device="cpu"))
        if self.loss_fn is not None:
            with torch.no_grad(), _named("loss_fn(model, batch)"):
                losses = self.loss_fn(self.module, two)
            checked_losses(losses, count(two, least=1), differentiable=False)
        if shown and self.states is None:
            with _named("the model"):
                self._states_of(Batches([two]))
        if self.options.params is not None:
            chosen(self.module, self.options.params)

    def measure(self, failed: Callable[[str, Exception], None]) -> Iterator[MeasuredValue]:
        """All values, the mean loss of the samples before the others.

        Args:
            failed: told of a measure that could not be taken, whose value then is NaN.
        """
        if self.loss_fn is not None:
            yield from self._guarded([LOSS], self._mean_loss, failed)
        together = needing(self.measures, Need.GRADIENTS)
        alone = [[name] for name in self.measures if name not in together]
        for group in filter(None, [*alone, together]):
            yield from self._guarded(group, lambda group=group: self._measured(group), failed)

    def _guarded(
        self,
        names: Iterable[str],
        take: Callable[[], list[MeasuredValue]],
        failed: Callable[[str, Exception], None],
    ) -> list[MeasuredValue]:
        try:
            return take()
        except Exception as error:
            for name in names:
                failed(name, error)
            nan = math.nan
            return [
                MeasuredValue(name, "", nan, nan, 0, 0.0, FAILED, self.settings(name))
                for name in names
            ]

    def settings(self, name: str) -> dict[str, Any]:
        """What shapes the values of a measure."""
        if name == LOSS:
            return {"measure": LOSS, "samples": self.options.samples}
        return self.options.of(name)

    def _measured(self, names: list[str]) -> list[MeasuredValue]:
        return measure_model(
            self.module,
            self.loss_fn,
            self.batches,
            names,
            self.options,
            states=self._activations,
            notice=self.notice,
        )

    def _activations(self) -> Mapping[str, Tensor]:
        if self.states is not None:
            with torch.no_grad():
                return check_states(self.states(self.module))
        return self._states_of(self.batches)

    def _states_of(self, batches: Batches) -> dict[str, Tensor]:
        named = {}
        if self.layers is not None:
            named = {"layers": self.layers[:-1], "final": self.layers[-1]}
        return activations(
            self.module,
            batches,
            position=self.options.position,
            batch_size=self.options.batch_size,
            notice=self.notice,
            **named,
        )

    @torch.no_grad()
    def _mean_loss(self) -> list[MeasuredValue]:
        assert self.loss_fn is not None
        begin = time.perf_counter()
        size = self.options.batch_size
        losses = []
        for batch in self.batches:
            samples = count(batch, least=1)
            for part in torch.arange(samples, device="cpu").split(size or samples):
                found = self.loss_fn(self.module, taken(batch, part))
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
    """What is known of the run itself at this moment.

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
        except (TypeError, ValueError, RuntimeError) as error:
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


def row(one: MeasuredValue, named: dict[str, Any]) -> dict[str, Any]:
    """A value as a row of the records, but for what a checkpoint's rows share."""
    values = {key: getattr(one, key) for key in ("measure", "layer", "value", "stderr", "n")}
    how = {"settings": fingerprint(one.settings), "backend": one.backend, "seconds": one.seconds}
    return {**named, **values, **how}


@contextmanager
def _named(what: str) -> Iterator[None]:
    """What fails inside is said to be the first try of the user's samples.

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
