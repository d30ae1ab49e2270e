"""Training of a group of a population, and measuring of its members together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomfast.population.measuring import Probe, measure, probes_of
from geomfast.population.plan import (
    PopulationSettings,
    recipe,
    run_name,
    scale_of,
    schedule,
    train_settings,
)
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
from geomfast.testbed.training.grammar_batches import GrammarBatches
from geomfast.testbed.training.length_batches import LengthBatches
from geomfast.testbed.training.stacked import StackedTrainer


@dataclass(frozen=True)
class GroupJob(TrainingJob):
    """A group with what it needs to be trained in a process of its own.

    A member whose loss or gradient is not finite stays at its last finite state, has no records
    from there on, and its failure is written down in OUT/failures.

    Attributes:
        group: which members.
        settings: those of the group's point of the axis.
        out, device, threads, state_every: see :class:`TrainingJob`.
        cadence: at how many checkpoints each measure is taken; at all where it is not named.
    """

    group: Group
    settings: PopulationSettings
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

    def _train(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        lacking = missing(self)
        if not lacking:
            return True
        trainer = _trainer(self)
        probes = probes_of(self.settings, trainer.device)
        written: set[int] = set()

        def measured(failed: dict[int, int]) -> None:
            names = lacking.get(trainer.step)
            if names and _measure(trainer, self, probes, failed, names):
                written.add(trainer.step)

        steps = schedule(self.settings)
        ends = min(lacking), max(lacking)
        if not train_to_checkpoints(self, trainer, steps, ends, measured, progress, stop):
            return False
        refuse_gone(self.records, written - recorded(self.records).keys())
        return True


def batches_of(settings: PopulationSettings, device: str) -> LengthBatches | GrammarBatches:
    """The training batches, the same for every member."""
    return settings.of_task.batches(settings.variant, device)


def wanted(job: GroupJob) -> dict[int, set[str]]:
    """Measures to take at each checkpoint, by step."""
    return cadence.wanted(schedule(job.settings), job.settings.measures, job.cadence)


def missing(job: GroupJob) -> dict[int, set[str]]:
    """Measures not yet recorded, by checkpoint step; steps with nothing missing are left out.

    Raises:
        PlanError: a file among the group's records is not one of its parts.
    """
    return cadence.lacking(wanted(job), recorded(job.records, job.settings.steps))


def _trainer(job: GroupJob) -> StackedTrainer:
    return StackedTrainer(
        scale_of(job.settings, job.group.scale),
        job.group.seeds,
        train_settings(job.settings),
        batches_of(job.settings, job.device),
        job.group.members_per_program,
        job.device,
    )


def _measure(
    trainer: StackedTrainer,
    job: GroupJob,
    probes: list[Probe],
    failed: dict[int, int],
    names: set[str],
) -> bool:
    """Measure the members that have not failed and write that; whether there are any."""
    rows = []
    seeds = iter(trainer.seeds)
    with timed(trainer, "measure"):
        for program in trainer.programs:
            own = [next(seeds) for _ in range(program.model.members)]
            rows += measure(program.model, own, probes, job.settings, failed, names)
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
        rate = scale_of(job.settings, job.group.scale).learning_rate
        for seed, step in failed.items():
            why = f"loss or gradient not finite at step {step} (learning rate {rate:g})"
            mark_failed(job.out, run_name(job.settings, job.group.scale, seed), step, why, "")
    return bool(rows)
