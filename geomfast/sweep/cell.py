"""One run of a sweep: train to the next checkpoint, measure it, write it, go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from geomfast.estimators.stopping import Stopped
from geomfast.records import part_name, write_part
from geomfast.runs import cadence
from geomfast.runs.cadence import Cadence
from geomfast.runs.errors import CellError
from geomfast.runs.executors.events import PROGRESS_SECONDS, Progress
from geomfast.runs.locks import locked
from geomfast.runs.parts import of_other_weights, recorded, refuse_gone
from geomfast.runs.states import KEPT_STATES, STATE_EVERY, States
from geomfast.runs.wall import write_wall
from geomfast.sweep.eigenvectors import Eigenvectors
from geomfast.sweep.measuring import measure
from geomfast.sweep.plan import KEEP, Cell, Settings, run_identity, train_settings
from geomfast.sweep.rows import Probe, probes
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.loop import Trainer
from geomfast.testbed.training.schedule import checkpoint_steps


@dataclass(frozen=True)
class Job:
    """A cell with what it needs to run in a process of its own.

    Attributes:
        cell: which run.
        settings: the sweep's.
        measures: names from the catalogue.
        out: the sweep's folder.
        device: where to train and measure.
        threads: CPU threads; results are bit-identical for the same number.
        keep: ``last`` keeps what a resume needs, ``all`` the weights of every checkpoint.
        cadence: of how many checkpoints each measure is taken; of all where it is not named.
        state_every: seconds between the states that a run can be resumed from, at least; no number
            depends on it.
    """

    cell: Cell
    settings: Settings
    measures: tuple[str, ...]
    out: Path
    device: str
    threads: int
    keep: str = KEEP[0]
    cadence: Cadence = field(default_factory=dict)
    state_every: float = STATE_EVERY

    @property
    def name(self) -> str:
        """Of the run."""
        return self.cell.run

    @property
    def cost(self) -> float:
        """Parameters times steps.

        Batches are the same in every cell of a sweep, so training and the measures that go through
        the gradients cost about this many times a constant.
        """
        return float(SCALES[self.cell.scale].parameters * self.settings.steps)

    def carry_out(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        """Train and measure it; see :func:`run`."""
        return run(self, progress, stop)

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
    """Measures not yet recorded, by checkpoint step; steps with nothing missing are left out.

    Raises:
        PlanError: a file among the run's records is not one of its parts.
    """
    return cadence.lacking(wanted(job), recorded(job.records, job.settings.steps))


def wanted(job: Job) -> dict[int, set[str]]:
    """What is measured at every checkpoint, by its step."""
    return cadence.wanted(schedule(job.settings), job.measures, job.cadence)


def run(
    job: Job,
    progress: Progress = lambda step, state: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train and measure a cell from wherever it was left.

    Args:
        job: the cell.
        progress: called now and then with the step and its state: loss (nats per answer token),
            tokens, real_fraction (of the processed tokens), and wall seconds since the run
            began: train_seconds, measure_seconds, write_seconds.
        stop: asked after every step; when true the state is saved and the run left, also where
            :func:`geomfast.estimators.stopping.stopped_by` ends a measure.

    Returns:
        Whether the cell is finished.

    Raises:
        CellError, CheckpointError, TrainingDiverged, OSError: the run cannot go on; what was
            written before stays readable.
    """
    with locked(job.checkpoints, f"run {job.cell.run}"):
        checkpoints.sweep_up(job.checkpoints)
        for remains in job.records.glob(".tmp-*"):
            remains.unlink(missing_ok=True)
        return _run(job, progress, stop)


def _run(job: Job, progress: Progress, stop: Callable[[], bool]) -> bool:
    torch.set_num_threads(job.threads)
    settings, cell = job.settings, job.cell
    lacking = missing(job)
    if not lacking:
        return True
    trainer = Trainer(cell.scale, cell.seed, cell.task_levels, train_settings(settings), job.device)
    samples = probes(cell, settings, trainer.device)
    identity = _identity(job)
    _measure_kept(trainer, job, samples, lacking, identity)
    if not lacking:
        return True
    _resume(trainer, job, min(lacking), identity)
    states = States(job.state_every)
    shown = 0.0
    unrecorded = False
    last = max(lacking)
    for target in (step for step in schedule(settings) if trainer.step <= step <= last):
        stopping = False
        with _timed(trainer, "train"):
            while trainer.step < target and not stopping:
                trainer.train_step()
                stopping = stop()
                if time.monotonic() - shown > PROGRESS_SECONDS:
                    progress(trainer.step, _state(trainer))
                    shown = time.monotonic()
            trainer.check_finite()
        if trainer.step == last:
            # Before its records, the last of all: whatever has them all has these weights too.
            _save(trainer, job, identity)
        if trainer.step == target and target in lacking:
            try:
                _measure(trainer, job, samples, lacking[target])
            except Stopped:  # a checkpoint is recorded whole: a later attempt begins with it
                stopping = unrecorded = True
        # Any other state is saved after the records: a kill in between repeats the steps since the
        # state before, and finds the records already there.
        if trainer.step < last:
            if stopping or states.due():
                _save(trainer, job, identity)
                states.written()
            elif job.keep == "all":
                _keep_weights(trainer, job, identity)
        write_wall(job.records, trainer.seconds)
        if unrecorded or (stopping and trainer.step < last):
            break
    progress(trainer.step, _state(trainer))
    if unrecorded or trainer.step < last:
        return False
    refuse_gone(job.records, missing(job))
    return True


@contextmanager
def _timed(trainer: Trainer, what: str) -> Iterator[None]:
    """Count wall time; what is timed must end with the device idle."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        trainer.seconds[what] += time.perf_counter() - begin


def _save(trainer: Trainer, job: Job, identity: dict[str, Any]) -> None:
    if trainer.step > 0 and trainer.step not in checkpoints.steps_saved(job.checkpoints):
        with _timed(trainer, "write"):
            checkpoints.save(trainer, job.checkpoints, identity)
            checkpoints.prune(
                job.checkpoints,
                trainer.step,
                keep_states=KEPT_STATES,
                keep_weights=job.keep == "all",
            )


def _keep_weights(trainer: Trainer, job: Job, identity: dict[str, Any]) -> None:
    """Of a checkpoint that has none yet: a run resumed from an older state comes by some again."""
    if trainer.step > 0 and trainer.step not in checkpoints.steps_kept(job.checkpoints):
        with _timed(trainer, "write"):
            checkpoints.save(trainer, job.checkpoints, identity, resumable=False)


def _measure_kept(
    trainer: Trainer,
    job: Job,
    samples: list[Probe],
    lacking: dict[int, set[str]],
    identity: dict[str, Any],
) -> None:
    """Take what is lacking of weights that were kept, without training; shortens ``lacking``."""
    fresh = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for step in checkpoints.steps_kept(job.checkpoints):
        if step in lacking:
            folder = job.checkpoints / checkpoints.folder_name(step)
            checkpoints.load_weights(trainer, folder, identity)
            _measure(trainer, job, samples, lacking.pop(step))
    trainer.model.load_state_dict(fresh)
    trainer.step = trainer.tokens = 0


def _resume(trainer: Trainer, job: Job, first: int, identity: dict[str, Any]) -> None:
    """Load the latest state from which the first lacking checkpoint can still be reached."""
    usable = [step for step in checkpoints.steps_saved(job.checkpoints) if step <= first]
    if not usable:
        return
    folder = job.checkpoints / checkpoints.folder_name(usable[-1])
    try:
        checkpoints.load(trainer, folder, identity)
    except checkpoints.CheckpointError as error:
        before = f"step {usable[-2]}" if len(usable) > 1 else "the beginning"
        raise CellError(f"{error}\nTo go on from {before} instead, delete {folder}") from error


def _measure(trainer: Trainer, job: Job, samples: list[Probe], names: set[str]) -> None:
    trainer.model.eval()
    taken = record(job, trainer.model, trainer.step, trainer.tokens, samples, names)
    trainer.model.train()
    for what, seconds in taken.items():
        trainer.seconds[what] += seconds


def record(
    job: Job, model: GPT, step: int, tokens: int, samples: list[Probe], names: set[str]
) -> dict[str, float]:
    """Measure a run's model at a checkpoint and write what was found.

    Args:
        job: the run.
        model: as it is there, in evaluation mode.
        step, tokens: taken, and seen without padding, until there.
        samples: of every task-level.
        names: of measures, and behaviour.

    Returns:
        Seconds it took to ``measure`` and to ``write``.

    Raises:
        CellError: other measures of this checkpoint were taken of other weights.
        OSError: the disk is full or not writable.
    """
    begin = time.perf_counter()
    eigenvectors = Eigenvectors(job.checkpoints, step)
    rows = measure(model, samples, names, job.settings, eigenvectors)
    measured = time.perf_counter()
    weights = checkpoints.weights_hash(model)
    if other := of_other_weights(job.records, step, weights):
        raise CellError(
            f"{other}: the weights of step {step} came out different from the ones "
            "measured there; use the same --threads and --device, or another OUT"
        )
    shared = {
        "run": job.cell.run,
        "scale": job.cell.scale,
        "seed": job.cell.seed,
        "step": step,
        "tokens": tokens,
        "weights": weights,
    }
    eigenvectors.save()
    write_part(job.records / part_name(step, names), [{**shared, **row} for row in rows])
    return {"measure": measured - begin, "write": time.perf_counter() - measured}


def _identity(job: Job) -> dict[str, Any]:
    """What a checkpoint must agree on before it is resumed from.

    Threads and device are among it: sums in another order give other bits, and a run is one
    computation from its first step to its last.
    """
    here = {"device": torch.device(job.device).type, "threads": job.threads}
    return run_identity(job.settings, job.cell) | here


def _state(trainer: Trainer) -> dict[str, float]:
    return {
        "loss": float(trainer.loss),
        "tokens": trainer.tokens,
        "real_fraction": trainer.tokens / max(1, trainer.processed_tokens),
        **{f"{what}_seconds": seconds for what, seconds in trainer.seconds.items()},
    }
