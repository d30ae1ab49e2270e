"""One run of a sweep: train to the next checkpoint, measure it, write it, go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch

from geomfast.records import part_name, write_part
from geomfast.sweep.measuring import Probe, measure, probes
from geomfast.sweep.plan import BEHAVIOUR, KEEP, Cell, Settings, locked
from geomfast.training import checkpoints
from geomfast.training.loop import Trainer, TrainSettings
from geomfast.training.schedule import checkpoint_steps

#: Called with the step reached and the state of the run there.
Progress = Callable[[int, dict[str, float]], None]
#: Least time between two calls of it; each reads the loss, which makes a GPU wait.
_PROGRESS_SECONDS = 0.25


class CellError(Exception):
    """A run that cannot go on; the message says why."""


@dataclass(frozen=True)
class Job:
    """A cell with what it needs to run in a process of its own.

    Attributes:
        cell: which run.
        settings: the sweep's.
        measures: names from :data:`geomfast.sweep.plan.MEASURES`.
        out: the sweep's folder.
        device: where to train and measure.
        threads: CPU threads; results are bit-identical for the same number.
        keep: ``last`` keeps what a resume needs, ``all`` the weights of every checkpoint.
    """

    cell: Cell
    settings: Settings
    measures: tuple[str, ...]
    out: Path
    device: str
    threads: int
    keep: str = KEEP[0]

    @property
    def records(self) -> Path:
        """Folder of the run's record parts."""
        return self.out / "records" / self.cell.run

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.out / "checkpoints" / self.cell.run


def schedule(settings: Settings) -> list[int]:
    """The steps at which every run of a sweep is measured."""
    return checkpoint_steps(
        settings.steps,
        dense_until=settings.dense_until,
        dense_every=settings.dense_every,
        count=settings.checkpoints,
    )


def missing(job: Job) -> dict[int, set[str]]:
    """Measures not yet recorded, by checkpoint step; steps with nothing missing are left out."""
    wanted = {BEHAVIOUR, *job.measures}
    recorded: dict[int, set[str]] = {}
    for part in job.records.glob("step-*.parquet"):
        step, names, _ = part.name.removeprefix("step-").split(".")
        recorded.setdefault(int(step), set()).update(names.split("+"))
    lacking = {step: wanted - recorded.get(step, set()) for step in schedule(job.settings)}
    return {step: names for step, names in lacking.items() if names}


def run(
    job: Job,
    progress: Progress = lambda step, state: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train and measure a cell from wherever it was left.

    Args:
        job: the cell.
        progress: called now and then with the step and its state: loss (nats per answer token),
            train_seconds, tokens, real_fraction (of the processed tokens).
        stop: asked after every step; when true the state is saved and the run left.

    Returns:
        Whether the cell is finished.

    Raises:
        CellError, CheckpointError, TrainingDiverged, OSError: the run cannot go on; what was
            written before stays readable.
    """
    with locked(job.checkpoints, f"run {job.cell.run}"):
        return _run(job, progress, stop)


def _run(job: Job, progress: Progress, stop: Callable[[], bool]) -> bool:
    torch.set_num_threads(job.threads)
    settings, cell = job.settings, job.cell
    lacking = missing(job)
    if not lacking:
        return True
    trainer = Trainer(
        cell.scale,
        cell.seed,
        cell.task_levels,
        TrainSettings(
            settings.steps,
            settings.batch_size,
            settings.learning_rate,
            precision=settings.precision,
        ),
        job.device,
    )
    samples = probes(cell, settings, trainer.device)
    identity = _identity(job)
    _resume(trainer, job, min(lacking), identity)
    shown = 0.0
    for target in (step for step in schedule(settings) if step >= trainer.step):
        while trainer.step < target:
            trainer.train_step()
            if stop():
                _save(trainer, job, identity)
                return False
            if time.monotonic() - shown > _PROGRESS_SECONDS:
                progress(trainer.step, _state(trainer))
                shown = time.monotonic()
        if target in lacking:
            trainer.check_finite()
            _measure(trainer, job, samples, lacking[target])
        # The state is saved after the records: a kill in between repeats the steps, and finds
        # the records already there.
        _save(trainer, job, identity)
        if target == max(lacking):
            break
    progress(trainer.step, _state(trainer))
    return True


def _save(trainer: Trainer, job: Job, identity: dict[str, Any]) -> None:
    if trainer.step > 0:
        trainer.check_finite()
        checkpoints.save(trainer, job.checkpoints, identity)
        checkpoints.prune(job.checkpoints, keep_states=2, keep_weights=job.keep == "all")


def _resume(trainer: Trainer, job: Job, first: int, identity: dict[str, Any]) -> None:
    """Load the latest state from which the first lacking checkpoint can still be reached."""
    usable = [step for step in checkpoints.steps_saved(job.checkpoints) if step <= first]
    if usable:
        folder = job.checkpoints / checkpoints.folder_name(usable[-1])
        checkpoints.load(trainer, folder, identity)


def _measure(trainer: Trainer, job: Job, samples: list[Probe], names: set[str]) -> None:
    trainer.model.eval()
    rows = measure(trainer.model, samples, names, job.settings)
    trainer.model.train()
    weights = checkpoints.weights_hash(trainer.model)
    for part in job.records.glob(f"step-{trainer.step:08d}.*.parquet"):
        before = pyarrow.parquet.read_table(part, columns=["weights"])["weights"][0].as_py()
        if before != weights:
            raise CellError(
                f"{part}: the weights of step {trainer.step} came out different from the ones "
                "measured there; use the same --threads and device, or another OUT"
            )
    shared = {
        "run": job.cell.run,
        "scale": job.cell.scale,
        "seed": job.cell.seed,
        "step": trainer.step,
        "tokens": trainer.tokens,
        "weights": weights,
    }
    write_part(job.records / part_name(trainer.step, names), [{**shared, **row} for row in rows])


def _identity(job: Job) -> dict[str, Any]:
    """What a checkpoint must agree on before it is resumed from."""
    s = job.settings
    return {
        "run": job.cell.run,
        "tasks": list(job.cell.tasks),
        "levels": list(job.cell.levels),
        "steps": s.steps,
        "batch_size": s.batch_size,
        "learning_rate": s.learning_rate,
        "precision": s.precision,
    }


def _state(trainer: Trainer) -> dict[str, float]:
    return {
        "loss": float(trainer.loss),
        "train_seconds": trainer.seconds,
        "tokens": trainer.tokens,
        "real_fraction": trainer.tokens / max(1, trainer.processed_tokens),
    }
