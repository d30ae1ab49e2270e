"""One group of a population: train to the next checkpoint, measure it, write it, go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from geomfast.population.measuring import LengthProbe, length_probes, measure
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
from geomfast.runs.errors import CellError
from geomfast.runs.executors.events import Progress
from geomfast.runs.failures import mark_failed
from geomfast.runs.groups import Group
from geomfast.runs.locks import locked
from geomfast.runs.parts import of_other_weights, recorded, refuse_gone
from geomfast.runs.stacked_loop import go_on, resume
from geomfast.runs.states import STATE_EVERY
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.length_batches import LengthBatches
from geomfast.testbed.training.stacked import StackedTrainer


@dataclass(frozen=True)
class GroupJob:
    """A group with what it needs to run.

    Attributes:
        group: which members.
        settings: the population's.
        out: its folder.
        device: where to train and measure.
        threads: CPU threads; results are bit-identical for the same number.
        state_every: seconds between the states that a group can be resumed from, at least.
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
    def records(self) -> Path:
        """Folder of the group's record parts."""
        return self.out / "records" / self.group.name

    @property
    def name(self) -> str:
        """Of the group."""
        return self.group.name

    @property
    def cost(self) -> float:
        """Parameters of all members times steps."""
        group = self.group
        scale = scale_of(self.settings, group.scale)
        return float(len(group.seeds) * scale.parameters * self.settings.steps)

    def carry_out(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        """Train and measure it; see :func:`run`."""
        return run(self, progress, stop)

    @property
    def checkpoints(self) -> Path:
        """Folder of the group's checkpoints."""
        return self.out / "checkpoints" / self.group.name


def batches_of(settings: PopulationSettings, device: str) -> LengthBatches:
    """What every member is trained on."""
    return LengthBatches(
        settings.length_task,
        settings.train_length,
        settings.longest,
        settings.batch_size,
        device,
    )


def wanted(job: GroupJob) -> dict[int, set[str]]:
    """What is measured at every checkpoint, by its step."""
    return cadence.wanted(schedule(job.settings), job.settings.measures, job.cadence)


def missing(job: GroupJob) -> dict[int, set[str]]:
    """Measures not yet recorded, by checkpoint step; steps with nothing missing are left out.

    Raises:
        PlanError: a file among the group's records is not one of its parts.
    """
    return cadence.lacking(wanted(job), recorded(job.records, job.settings.steps))


def run(
    job: GroupJob,
    progress: Progress = lambda step, state: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train and measure a group from wherever it was left.

    A member whose loss or gradient is not finite stays at its last finite state, has no records
    from there on, and its failure is written down in OUT/failures.

    Args:
        job: the group.
        progress, stop: see :func:`geomfast.runs.stacked_loop.go_on`.

    Returns:
        Whether the group is finished.

    Raises:
        CellError, CheckpointError, OSError: it cannot go on; what was written before stays.
    """
    with locked(job.checkpoints, f"group {job.group.name}"):
        checkpoints.sweep_up(job.checkpoints)
        for remains in job.records.glob(".tmp-*"):
            remains.unlink(missing_ok=True)
        torch.set_num_threads(job.threads)
        lacking = missing(job)
        if not lacking:
            return True
        trainer = _trainer(job)
        identity = _identity(job)
        resume(trainer, job.checkpoints, identity, min(lacking))
        probes = length_probes(job.settings, trainer.device)

        written: set[int] = set()

        def measured(failed: dict[int, int]) -> None:
            names = lacking.get(trainer.step)
            if names and _measure(trainer, job, probes, failed, names):
                written.add(trainer.step)

        steps = [step for step in schedule(job.settings) if step <= max(lacking)]
        walls, every = [job.records], job.state_every
        if not go_on(
            trainer, job.checkpoints, identity, walls, steps, measured, progress, stop, every
        ):
            return False
        refuse_gone(job.records, written - recorded(job.records).keys())
        return True


def _trainer(job: GroupJob) -> StackedTrainer:
    return StackedTrainer(
        scale_of(job.settings, job.group.scale),
        job.group.seeds,
        train_settings(job.settings),
        batches_of(job.settings, job.device),
        job.group.at_once,
        job.device,
    )


def _measure(
    trainer: StackedTrainer,
    job: GroupJob,
    probes: list[LengthProbe],
    failed: dict[int, int],
    names: set[str],
) -> bool:
    """Measure the members that have not failed and write that; whether there are any."""
    begin = time.perf_counter()
    rows = []
    seeds = iter(trainer.seeds)
    for program in trainer.programs:
        own = [next(seeds) for _ in range(program.model.members)]
        rows += measure(program.model, own, probes, job.settings, failed, names)
    trainer.seconds["measure"] += time.perf_counter() - begin
    begin = time.perf_counter()
    shared = {"step": trainer.step, "tokens": trainer.tokens}
    if rows:
        weights = {row["weights"] for row in rows}
        if other := of_other_weights(job.records, trainer.step, weights):
            raise CellError(
                f"{other}: the weights of step {trainer.step} came out different from the ones "
                "measured there; use the same --threads and --device, or another OUT"
            )
        part = job.records / part_name(trainer.step, names)
        write_part(part, [{**shared, **row} for row in rows])
    rate = scale_of(job.settings, job.group.scale).learning_rate
    for seed, step in failed.items():
        why = f"loss or gradient not finite at step {step} (learning rate {rate:g})"
        mark_failed(job.out, run_name(job.settings, job.group.scale, seed), step, why, "")
    trainer.seconds["write"] += time.perf_counter() - begin
    return bool(rows)


def _identity(job: GroupJob) -> dict[str, Any]:
    """What a checkpoint must agree on before it is resumed from, as a sweep's runs have it."""
    return {
        "group": job.group.name,
        "at_once": job.group.at_once,
        "task": job.settings.task,
        "train_length": job.settings.train_length,
        "device": torch.device(job.device).type,
        "threads": job.threads,
        **recipe(job.settings, job.group.scale),
    }
