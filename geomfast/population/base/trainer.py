"""Members of a base in progress: programs of them, saved and loaded as stacked training is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from geomfast.population.base.plan import IN_TURN
from geomfast.population.base.prepared import Prepared
from geomfast.population.base.programs import Program, programs
from geomfast.testbed.training.members import ROUND, MembersTrainer


class BaseTrainer(MembersTrainer[Program]):
    """A group of members of a base; see :mod:`geomfast.testbed.training.protocol`.

    Args:
        prepared: what they share.
        seeds: of initialisations and order of the examples.
        together: members that are one program.
    """

    def __init__(self, prepared: Prepared, seeds: Sequence[int], together: int) -> None:
        self.prepared = prepared
        # A step of a whole model may take seconds, in which a signal waits.
        round = 1 if prepared.base.way == IN_TURN else ROUND
        of = programs(prepared, tuple(seeds), together)
        super().__init__(of, seeds, prepared.device, prepared.settings.steps, round)

    @property
    def tokens(self) -> int:
        """Tokens that a member has been trained on, on average over orders of the examples."""
        return self.prepared.order.tokens_until(self.step)

    def states(self) -> Iterator[dict[str, Tensor]]:
        """Every member's trained parameters in order, by name as the base has them; views."""
        names = self.prepared.trained
        for program in self.programs:
            for values in zip(*self.prepared.views(program.model.weights), strict=True):
                yield dict(zip(names, values, strict=True))
