"""One group of a population: train to the next checkpoint, measure it, write it, go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geomfast.records import part_name, write_part
from geomfast.sweep.cell import KEPT_STATES, CellError, Progress
from geomfast.sweep.failures import mark_failed
from geomfast.sweep.folder import locked
from geomfast.sweep.parts import recorded
from geomfast.sweep.population.measuring import LengthProbe, length_probes, measure
from geomfast.sweep.population.plan import (
    MEASURES,
    Group,
    PopulationSettings,
    recipe,
    run_name,
    scale_of,
    schedule,
    train_settings,
)
from geomfast.sweep.wall import write_wall
from geomfast.training import checkpoints
from geomfast.training.length_batches import LengthBatches
from geomfast.training.stacked import StackedTrainer

#: Least time between two progress events.
_PROGRESS_SECONDS = 0.25


@dataclass(frozen=True)
class GroupJob:
    """A group with what it needs to run.

    Attributes:
        group: which members.
        settings: the population's.
        out: its folder.
        device: where to train and measure.
        threads: CPU threads; results are bit-identical for the same number.
    """

    group: Group
    settings: PopulationSettings
    out: Path
    device: str
    threads: int

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


def missing(job: GroupJob) -> list[int]:
    """Steps of the group's checkpoints that are not recorded, ascending.

    Raises:
        PlanError: a file among the group's records is not one of its parts.
    """
    there = recorded(job.records)
    return [step for step in schedule(job.settings) if step not in there]


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
        progress: called now and then with the step and its state: loss (nats per answer token, mean
            of the members that have not failed), failed (how many have), and seconds.
        stop: asked between rounds of steps; when true the state is saved and the group left.

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
        _resume(trainer, job, lacking[0])
        return _run(trainer, job, lacking, progress, stop)


def _run(
    trainer: StackedTrainer,
    job: GroupJob,
    lacking: Sequence[int],
    progress: Progress,
    stop: Callable[[], bool],
) -> bool:
    probes = length_probes(job.settings, trainer.device)
    shown = 0.0
    stopping = False

    def after_round() -> bool:
        nonlocal shown, stopping
        stopping = stop()
        if time.monotonic() - shown > _PROGRESS_SECONDS:
            progress(trainer.step, _state(trainer))
            shown = time.monotonic()
        return stopping

    last = lacking[-1]
    for target in (step for step in schedule(job.settings) if trainer.step <= step <= last):
        begin = time.perf_counter()
        trainer.advance(target, after_round)
        failed = trainer.failed()  # waits for the device
        trainer.seconds["train"] += time.perf_counter() - begin
        if trainer.step == target and target in lacking:
            _measure(trainer, job, probes, failed)
        # The state is saved after the records: a kill in between repeats the steps, and finds the
        # records already there.
        _save(trainer, job)
        if (stopping or stop()) and trainer.step < last:
            break
    progress(trainer.step, _state(trainer))
    return trainer.step >= last


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
    trainer: StackedTrainer, job: GroupJob, probes: list[LengthProbe], failed: dict[int, int]
) -> None:
    begin = time.perf_counter()
    rows = []
    seeds = iter(trainer.seeds)
    for program in trainer.programs:
        own = [next(seeds) for _ in range(program.model.members)]
        rows += measure(program.model, own, probes, job.settings, failed)
    trainer.seconds["measure"] += time.perf_counter() - begin
    begin = time.perf_counter()
    shared = {"step": trainer.step, "tokens": trainer.tokens}
    part = job.records / part_name(trainer.step, MEASURES)
    write_part(part, [{**shared, **row} for row in rows])
    rate = scale_of(job.settings, job.group.scale).learning_rate
    for seed, step in failed.items():
        why = f"loss or gradient not finite at step {step} (learning rate {rate:g})"
        mark_failed(job.out, run_name(job.settings, job.group.scale, seed), step, why, "")
    trainer.seconds["write"] += time.perf_counter() - begin


def _save(trainer: StackedTrainer, job: GroupJob) -> None:
    if trainer.step == 0:
        return
    begin = time.perf_counter()
    trainer.save(job.checkpoints, _identity(job))
    checkpoints.prune(job.checkpoints, trainer.step, keep_states=KEPT_STATES, keep_weights=False)
    trainer.seconds["write"] += time.perf_counter() - begin
    write_wall(job.records, trainer.seconds)


def _resume(trainer: StackedTrainer, job: GroupJob, first: int) -> None:
    """Load the latest state from which the first lacking checkpoint can still be reached."""
    usable = [step for step in checkpoints.steps_saved(job.checkpoints) if step <= first]
    if not usable:
        return
    folder = job.checkpoints / checkpoints.folder_name(usable[-1])
    try:
        trainer.load(folder, _identity(job))
    except checkpoints.CheckpointError as error:
        raise CellError(f"{error}\nTo go on from an earlier state, delete {folder}") from error


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


def _state(trainer: StackedTrainer) -> dict[str, float]:
    failed = trainer.failed()
    losses = trainer.losses()
    running = [i for i, seed in enumerate(trainer.seeds) if seed not in failed]
    return {
        "loss": float(losses[running].mean()) if running else float("nan"),
        "failed": len(failed),
        **{f"{what}_seconds": seconds for what, seconds in trainer.seconds.items()},
    }
