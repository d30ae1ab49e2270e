"""Training from checkpoint to checkpoint, for every trainer and every set of measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from geomfast.estimators.stopping import Stopped
from geomfast.measures.activity import announce
from geomfast.runs.errors import RunError
from geomfast.runs.executors.events import PROGRESS_SECONDS, Progress
from geomfast.runs.job import TrainingJob
from geomfast.runs.states import KEPT_STATES, States
from geomfast.runs.timing import TRAINING, WRITING, write_seconds
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.protocol import TrainerProtocol


def train_to_checkpoints(
    job: TrainingJob,
    trainer: TrainerProtocol,
    schedule: Sequence[int],
    wanted: tuple[int, int],
    measure: Callable[[dict[int, int]], None],
    progress: Progress,
    stop: Callable[[], bool],
    *,
    keep_weights: bool = False,
) -> bool:
    """Train to one checkpoint after the other, measure there, and save the state now and then.

    Args:
        job: what is trained; its latest usable state is resumed from.
        trainer: at its beginning.
        schedule: steps of all checkpoints, ascending.
        wanted: the first and the last of them at which something is to be measured.
        measure: called at each up to the last, with the members that have failed, seed -> step.
        progress: called now and then with the step, and a state of :meth:`TrainerProtocol.progress`
            and of wall seconds since training began: train_seconds, measure_seconds, write_seconds.
        stop: asked between steps, and after measuring; when true the state is saved and training
            left.
        keep_weights: whether weights stay of states that are not resumed from any more.

    Returns:
        Whether the last of the steps was reached, and measured.

    Raises:
        RunError: the state is damaged, or of other training.
        TrainingDiverged: no member is left that could be trained.
        OSError: the disk is full or not writable.
    """
    first, last = wanted
    records = [member.records for member in job.members]
    _resume(job, trainer, first)
    begun_at = trainer.step
    states = States(job.state_every)
    shown = 0.0
    stopping = unrecorded = False

    def save() -> None:
        if trainer.step > 0 and trainer.step not in checkpoints.steps_saved(job.checkpoints):
            announce(WRITING)
            with timed(trainer, "write"):
                trainer.save(job.checkpoints, job.identity)
                checkpoints.prune(
                    job.checkpoints,
                    trainer.step,
                    keep_states=KEPT_STATES,
                    keep_weights=keep_weights,
                )

    def after_round() -> bool:
        nonlocal shown, stopping
        stopping = stop()
        if time.monotonic() - shown > PROGRESS_SECONDS:
            progress(trainer.step, _state(trainer))
            shown = time.monotonic()
        return stopping

    for target in (step for step in schedule if trainer.step <= step <= last):
        announce(TRAINING)
        with timed(trainer, "train"):
            trainer.advance(target, after_round)
            failed = trainer.failed()  # waits for the device
        if trainer.step == last:
            # Before its records, the last of all: whatever has them all has these weights too.
            save()
        if trainer.step == target:
            announce("measuring", trainer.step)
            try:
                measure(failed)
            except Stopped:  # a checkpoint is recorded whole: a later attempt begins with it
                stopping = unrecorded = True
        # Any other state is saved after the records: a kill in between repeats the steps since the
        # state before, and finds the records already there.
        if begun_at < trainer.step < last and not stopping:  # not without having got further
            stopping = stop()
        if trainer.step < last and (stopping or states.due()):
            save()
            states.written()
        share = {what: took / len(records) for what, took in trainer.seconds.items()}
        for folder in records:
            write_seconds(folder, share)
        if stopping:
            break
    progress(trainer.step, _state(trainer))
    return trainer.step >= last and not unrecorded


@contextmanager
def timed(trainer: TrainerProtocol, what: str) -> Iterator[None]:
    """Count wall time; what is timed must end with the device idle."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        trainer.seconds[what] += time.perf_counter() - begin


def _resume(job: TrainingJob, trainer: TrainerProtocol, first: int) -> None:
    """Load the latest state from which a checkpoint can still be reached, if there is any."""
    usable = [step for step in checkpoints.steps_saved(job.checkpoints) if step <= first]
    if not usable:
        return
    folder = job.checkpoints / checkpoints.folder_name(usable[-1])
    try:
        trainer.load(folder, job.identity)
    except checkpoints.CheckpointError as error:
        before = f"step {usable[-2]}" if len(usable) > 1 else "the beginning"
        raise RunError(f"{error}\nTo resume from {before} instead, delete {folder}") from error


def _state(trainer: TrainerProtocol) -> dict[str, float]:
    seconds = {f"{what}_seconds": took for what, took in trainer.seconds.items()}
    return trainer.progress() | seconds
