"""Training of a group of a population, and measuring of its members together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from geomfast.population.job import MembersJob
from geomfast.population.measuring import Probe, measure, probes_of
from geomfast.population.plan import (
    PopulationSettings,
    recipe,
    run_name,
    scale_of,
    schedule,
    train_settings,
)
from geomfast.runs.cadence import Cadence
from geomfast.runs.groups import Group
from geomfast.runs.states import STATE_EVERY
from geomfast.testbed.training.grammar_batches import GrammarBatches
from geomfast.testbed.training.length_batches import LengthBatches
from geomfast.testbed.training.stacked import StackedTrainer


@dataclass(frozen=True)
class GroupJob(MembersJob[StackedTrainer]):
    """A group of members that are trained from nothing.

    Attributes:
        settings: those of the group's point of the axis.
        group, out, device, threads, state_every, cadence: see :class:`MembersJob`.
    """

    group: Group
    settings: PopulationSettings
    out: Path
    device: str
    threads: int
    state_every: float = STATE_EVERY
    cadence: Cadence = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """Parameters of all members times steps."""
        group = self.group
        scale = scale_of(self.settings, group.scale)
        return float(len(group.seeds) * scale.parameters * self.settings.steps)

    @property
    def identity(self) -> dict[str, Any]:
        """Values that a state must match before training resumes from it."""
        return {
            "group": self.group.name,
            "at_once": self.group.members_per_program,
            "task": self.settings.task,
            **{
                name: getattr(self.settings, name) for name in self.settings.of_task.shapes_training
            },
            **self._place,
            **recipe(self.settings, self.group.scale),
        }

    @property
    def measured(self) -> tuple[list[int], tuple[str, ...]]:
        """The steps of all checkpoints, and the measures beside behaviour."""
        return schedule(self.settings), self.settings.measures

    @property
    def rate(self) -> float:
        """Peak learning rate."""
        return scale_of(self.settings, self.group.scale).learning_rate

    def run_name(self, seed: int) -> str:
        """A member's name in the records."""
        return run_name(self.settings, self.group.scale, seed)

    def trainer(self) -> StackedTrainer:
        """The members at their beginning."""
        return StackedTrainer(
            scale_of(self.settings, self.group.scale),
            self.group.seeds,
            train_settings(self.settings),
            batches_of(self.settings, self.device),
            self.group.members_per_program,
            self.device,
        )

    @cached_property
    def probes(self) -> list[Probe]:
        """The samples of every test set, on the device."""
        return probes_of(self.settings, torch.device(self.device))

    def rows(
        self, trainer: StackedTrainer, failed: Mapping[int, int], names: Collection[str]
    ) -> list[dict[str, Any]]:
        """Records, but for step and tokens, of the members that have not failed."""
        rows: list[dict[str, Any]] = []
        seeds = iter(trainer.seeds)
        for program in trainer.programs:
            own = [next(seeds) for _ in range(program.model.members)]
            rows += measure(program.model, own, self.probes, self.settings, failed, names)
        return rows


def batches_of(settings: PopulationSettings, device: str) -> LengthBatches | GrammarBatches:
    """The training batches, the same for every member."""
    return settings.of_task.batches(settings.variant, device)
