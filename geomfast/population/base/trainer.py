"""Members of a base in progress: programs of them, saved and loaded as stacked training is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from geomfast.population.base.plan import IN_TURN
from geomfast.population.base.prepared import Prepared
from geomfast.population.base.programs import Program, programs
from geomfast.testbed.training.stacked import ROUND, StackedTrainer


class BaseTrainer(StackedTrainer):
    """A group of members of a base; see :mod:`geomfast.testbed.training.protocol`.

    Args:
        prepared: what they share.
        seeds: of initialisations and order of the examples.
        together: members that are one program.
    """

    programs: list[Program]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, prepared: Prepared, seeds: Sequence[int], together: int) -> None:
        # Not that of StackedTrainer, which makes GPTs of the testbed; all else is its own.
        self.prepared, self.seeds, self.device = prepared, tuple(seeds), prepared.device
        self.programs = programs(prepared, self.seeds, together)
        self.steps, self.step = prepared.settings.steps, 0
        self.seconds = {"train": 0.0, "measure": 0.0, "write": 0.0}

    @property
    def tokens(self) -> int:
        """Tokens that a member has been trained on, on average over orders of the examples."""
        return self.prepared.order.tokens_until(self.step)

    def advance(self, target: int, after_round: Callable[[], bool] = lambda: False) -> None:
        """Train all members up to a step; see :meth:`StackedTrainer.advance`."""
        if target > self.steps:
            raise ValueError(f"target = {target} is beyond the {self.steps} steps of the schedule")
        # A step of a whole model may take seconds, in which a signal waits.
        most = 1 if self.prepared.base.way == IN_TURN else ROUND
        while self.step < target:
            steps = min(most, target - self.step)
            for program in self.programs:
                program.advance(steps)
            self.step += steps
            if after_round():
                return

    def states(self) -> Iterator[dict[str, Tensor]]:
        """Every member's trained parameters in order, by name as the base has them; views."""
        names = self.prepared.trained
        for program in self.programs:
            for values in zip(*self.prepared.views(program.model.weights), strict=True):
                yield dict(zip(names, values, strict=True))
