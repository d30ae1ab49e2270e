"""Training of a group of members of a base, and measuring of its members together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomfast.population.base.measuring import measure
from geomfast.population.base.plan import Base, BaseSettings, recipe, run_name, schedule
from geomfast.population.base.prepared import prepare
from geomfast.population.base.trainer import BaseTrainer
from geomfast.population.job import MembersJob
from geomfast.runs.cadence import Cadence
from geomfast.runs.groups import Group
from geomfast.runs.states import STATE_EVERY


@dataclass(frozen=True)
class BaseGroupJob(MembersJob[BaseTrainer]):
    """A group of members of a base.

    Attributes:
        base: what they are made of.
        settings: the population's.
        train, test: files of examples.
        group, out, device, threads, state_every, cadence: see :class:`MembersJob`.
    """

    group: Group
    base: Base
    settings: BaseSettings
    train: Path
    test: Path
    out: Path
    device: str
    threads: int
    state_every: float = STATE_EVERY
    cadence: Cadence = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """Parameters of all members times steps."""
        return float(len(self.group.seeds) * self.base.trained * self.settings.steps)

    @property
    def identity(self) -> dict[str, Any]:
        """Values that a state must match before training resumes from it."""
        return {
            "group": self.group.name,
            "at_once": self.group.members_per_program,
            "task": self.settings.task,
            "train": self.settings.train,
            "trained_parameters": self.settings.trained,
            "accumulation": self.settings.accumulation,
            **self._place,
            **recipe(self.settings, self.base),
        }

    def trainer(self) -> BaseTrainer:
        """The members at their beginning.

        Raises:
            RunError: base or files are others than planned.
            PlanError: they cannot be read.
        """
        prepared = prepare(self.base, self.settings, self.train, self.test, self.device)
        return BaseTrainer(prepared, self.group.seeds, self.group.members_per_program)

    @property
    def measured(self) -> tuple[list[int], tuple[str, ...]]:
        """The steps of all checkpoints, and the measures beside behaviour."""
        return schedule(self.settings), self.settings.measures

    @property
    def rate(self) -> float:
        """Peak learning rate."""
        return self.settings.learning_rate

    def run_name(self, seed: int) -> str:
        """A member's name in the records."""
        return run_name(self.settings, self.base.name, seed)

    def rows(
        self, trainer: BaseTrainer, failed: Mapping[int, int], names: Collection[str]
    ) -> list[dict[str, Any]]:
        """Records, but for step and tokens, of the members that have not failed."""
        return [row for program in trainer.programs for row in measure(program, failed, names)]
