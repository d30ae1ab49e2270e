"""Training of a group of members of a base, and measuring of its members together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomfast.population.base.measuring import measure
from geomfast.population.base.plan import (
    Base,
    BaseSettings,
    recipe,
    run_name,
    schedule,
)
from geomfast.population.base.prepared import prepare
from geomfast.population.base.trainer import BaseTrainer
from geomfast.records import part_name, write_part
from geomfast.runs import cadence
from geomfast.runs.cadence import Cadence
from geomfast.runs.errors import RunError
from geomfast.runs.executors.events import Progress
from geomfast.runs.failures import mark_failed
from geomfast.runs.groups import Group
from geomfast.runs.job import TrainingJob
from geomfast.runs.recorded import of_other_weights, recorded, refuse_gone
from geomfast.runs.states import STATE_EVERY
from geomfast.runs.training import timed, train_to_checkpoints


@dataclass(frozen=True)
class BaseGroupJob(TrainingJob):
    """A group of members with what it needs to be trained in a process of its own.

    A member whose loss or gradient is not finite stays at its last finite state, has no records
    from there on, and its failure is written down in OUT/failures.

    Attributes:
        group: which members.
        base: what they are made of.
        settings: the population's.
        train, test: files of examples.
        out, device, threads, state_every: see :class:`TrainingJob`.
        cadence: at how many checkpoints each measure is taken; at all where it is not named.
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
    def name(self) -> str:
        """Name of the group."""
        return self.group.name

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

    def _train(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        lacking = missing(self)
        if not lacking:
            return True
        trainer = self.trainer()
        written: set[int] = set()

        def measured(failed: dict[int, int]) -> None:
            names = lacking.get(trainer.step)
            if names and _measure(trainer, self, failed, names):
                written.add(trainer.step)

        steps = schedule(self.settings)
        ends = min(lacking), max(lacking)
        if not train_to_checkpoints(self, trainer, steps, ends, measured, progress, stop):
            return False
        refuse_gone(self.records, written - recorded(self.records).keys())
        return True


def missing(job: BaseGroupJob) -> dict[int, set[str]]:
    """Measures not yet recorded, by checkpoint step; steps with nothing missing are left out.

    Raises:
        PlanError: a file among the group's records is not one of its parts.
    """
    settings = job.settings
    wanted = cadence.wanted(schedule(settings), settings.measures, job.cadence)
    return cadence.lacking(wanted, recorded(job.records, settings.steps))


def _measure(
    trainer: BaseTrainer, job: BaseGroupJob, failed: dict[int, int], names: set[str]
) -> bool:
    """Measure the members that have not failed and write that; whether there are any."""
    rows: list[dict[str, Any]] = []
    with timed(trainer, "measure"):
        for program in trainer.programs:
            rows += measure(program, failed, names)
    with timed(trainer, "write"):
        shared = {"step": trainer.step, "tokens": trainer.tokens}
        if rows:
            weights = {row["weights"] for row in rows}
            if other := of_other_weights(job.records, trainer.step, weights):
                raise RunError(
                    f"{other}: the weights of step {trainer.step} came out different from the ones "
                    "measured there; use the same --threads and --device, or another OUT"
                )
            part = job.records / part_name(trainer.step, names)
            write_part(part, [{**shared, **row} for row in rows])
        rate = job.settings.learning_rate
        for seed, step in failed.items():
            why = f"loss or gradient not finite at step {step} (learning rate {rate:g})"
            mark_failed(job.out, run_name(job.settings, job.base.name, seed), step, why, "")
    return bool(rows)
