"""What a tracker takes of its copy of a model: values, or why there is none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.integrations.measuring import Found, Options, measure_model
from geomfast.integrations.memory import Notice
from geomfast.integrations.states import activations
from geomfast.measures.behaviour import mean_and_stderr
from geomfast.measures.checks import LossFunction, checked_losses, count
from geomfast.measures.sampling.streams import taken

LOSS = "loss"
#: What a value that could not be taken says where others have their backend.
FAILED = "failed"
#: Measures that share their work; each of the others is taken by itself.
_TOGETHER = ("fisher_rank", "gradient_covariance_rank")
#: Activations by layer label, of a model.
StatesOf = Callable[[nn.Module], Mapping[str, Tensor]]


@dataclass
class Taking:
    """The measures of a module on some samples.

    Attributes:
        module: in evaluation mode.
        measures: names, checked.
        loss_fn, batches, options: as :func:`geomfast.integrations.measuring.measure_model` takes
            them.
        states: activations for rankme; None for those of ``layers``.
        layers: names of the modules that are the blocks; None for the longest ModuleList.
        notice: told what had to be changed for want of memory.
    """

    module: nn.Module
    measures: Sequence[str]
    loss_fn: LossFunction | None
    batches: list[Any]
    options: Options
    states: StatesOf | None
    layers: Sequence[str] | None
    notice: Notice

    def try_out(self) -> None:
        """Run the model on two samples, so that what cannot work is known before training.

        Raises:
            TypeError, ValueError: as the measures would.
        """
        if not self.batches:
            return
        batch = self.batches[0]
        two = taken(batch, torch.arange(min(2, count(batch, least=1))))
        if self.loss_fn is not None:
            with torch.no_grad():
                losses = self.loss_fn(self.module, two)
            checked_losses(losses, count(two, least=1), differentiable=False)
        if "rankme" in self.measures and self.states is None:
            activations(self.module, two, layers=self.layers, position=self.options.position)

    def take(self, failed: Callable[[str, Exception], None]) -> Iterator[Found]:
        """All values, the mean loss of the samples before the others.

        Args:
            failed: told of a measure that could not be taken, whose value then is NaN.
        """
        if self.loss_fn is not None:
            yield from self._guarded([LOSS], self._mean_loss, failed)
        together = [name for name in self.measures if name in _TOGETHER]
        alone = [[name] for name in self.measures if name not in _TOGETHER]
        for group in filter(None, [*alone, together]):
            yield from self._guarded(group, lambda group=group: self._measured(group), failed)

    def _guarded(
        self,
        names: Iterable[str],
        take: Callable[[], list[Found]],
        failed: Callable[[str, Exception], None],
    ) -> list[Found]:
        try:
            return take()
        except Exception as error:
            for name in names:
                failed(name, error)
            nan = math.nan
            return [
                Found(name, "", nan, nan, 0, 0.0, FAILED, self.settings(name)) for name in names
            ]

    def settings(self, name: str) -> dict[str, Any]:
        """What shapes the values of a measure."""
        if name == LOSS:
            return {"measure": LOSS, "samples": self.options.samples}
        return self.options.of(name)

    def _measured(self, names: list[str]) -> list[Found]:
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
                return self.states(self.module)
        return activations(
            self.module,
            self.batches,
            position=self.options.position,
            layers=self.layers,
            batch_size=self.options.batch_size,
            notice=self.notice,
        )

    @torch.no_grad()
    def _mean_loss(self) -> list[Found]:
        assert self.loss_fn is not None
        begin = time.perf_counter()
        size = self.options.batch_size
        losses = []
        for batch in self.batches:
            samples = count(batch, least=1)
            for part in torch.arange(samples).split(size or samples):
                found = self.loss_fn(self.module, taken(batch, part))
                losses.append(checked_losses(found, len(part), differentiable=False))
        together = torch.cat(losses).double()
        mean, stderr = mean_and_stderr(together)
        seconds = time.perf_counter() - begin
        settings = self.settings(LOSS)
        return [Found(LOSS, "", mean, stderr, len(together), seconds, "torch", settings)]
