"""Stacked training from checkpoint to checkpoint, whatever is measured there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from geomfast.estimators.stopping import Stopped
from geomfast.runs.errors import CellError
from geomfast.runs.executors.events import PROGRESS_SECONDS, Progress
from geomfast.runs.states import KEPT_STATES, STATE_EVERY, States
from geomfast.runs.wall import write_wall
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.stacked import StackedTrainer


def resume(trainer: StackedTrainer, folder: Path, identity: dict[str, Any], first: int) -> None:
    """Load the latest state from which a checkpoint can still be reached, if there is any.

    Args:
        trainer: at its beginning.
        folder: of its checkpoints.
        identity: what a state must agree on.
        first: step of the checkpoint.

    Raises:
        CellError: the state is damaged, or of other training.
    """
    usable = [step for step in checkpoints.steps_saved(folder) if step <= first]
    if not usable:
        return
    found = folder / checkpoints.folder_name(usable[-1])
    try:
        trainer.load(found, identity)
    except checkpoints.CheckpointError as error:
        raise CellError(f"{error}\nTo go on from an earlier state, delete {found}") from error


def go_on(
    trainer: StackedTrainer,
    folder: Path,
    identity: dict[str, Any],
    walls: Sequence[Path],
    steps: Sequence[int],
    measure: Callable[[dict[int, int]], None],
    progress: Progress,
    stop: Callable[[], bool],
    state_every: float = STATE_EVERY,
) -> bool:
    """Train to one checkpoint after the other, measure it, and save the state now and then.

    Args:
        trainer: where it was left.
        folder: of its checkpoints.
        identity: see :func:`resume`.
        walls: folders of records that share the wall time.
        steps: of the checkpoints, up to the last one that is needed.
        measure: called at each with the members that have failed, seed -> step.
        progress: called now and then with the step and its state: loss (nats per answer token, mean
            of the members that have not failed), failed (how many have), and seconds.
        stop: asked between rounds of steps; when true the state is saved and training left.
        state_every: seconds between states at least.

    Returns:
        Whether the last of the steps was reached, and measured.

    Raises:
        OSError: the disk is full or not writable.
    """
    states = States(state_every)
    shown = 0.0
    stopping = unrecorded = False

    def after_round() -> bool:
        nonlocal shown, stopping
        stopping = stop()
        if time.monotonic() - shown > PROGRESS_SECONDS:
            progress(trainer.step, _state(trainer))
            shown = time.monotonic()
        return stopping

    for target in (step for step in steps if trainer.step <= step):
        begin = time.perf_counter()
        trainer.advance(target, after_round)
        failed = trainer.failed()  # waits for the device
        trainer.seconds["train"] += time.perf_counter() - begin
        if trainer.step == target:
            try:
                measure(failed)
            except Stopped:  # what is not recorded is measured at this state by a later attempt
                stopping = unrecorded = True
        # The state is saved after the records: a kill in between repeats the steps since the state
        # before, and finds the records already there.
        leaving = trainer.step >= steps[-1] or stopping or stop()
        if leaving or states.due():
            _save(trainer, folder, identity)
            states.written()
        _note(trainer, walls)
        if leaving:
            break
    progress(trainer.step, _state(trainer))
    return trainer.step >= steps[-1] and not unrecorded


def _save(trainer: StackedTrainer, folder: Path, identity: dict[str, Any]) -> None:
    if trainer.step > 0 and trainer.step not in checkpoints.steps_saved(folder):
        begin = time.perf_counter()
        trainer.save(folder, identity)
        checkpoints.prune(folder, trainer.step, keep_states=KEPT_STATES, keep_weights=False)
        trainer.seconds["write"] += time.perf_counter() - begin


def _note(trainer: StackedTrainer, walls: Sequence[Path]) -> None:
    each = {what: seconds / len(walls) for what, seconds in trainer.seconds.items()}
    for records in walls:
        write_wall(records, each)


def _state(trainer: StackedTrainer) -> dict[str, float]:
    failed = trainer.failed()
    losses = trainer.losses()
    running = [i for i, seed in enumerate(trainer.seeds) if seed not in failed]
    return {
        "loss": float(losses[running].mean()) if running else float("nan"),
        "failed": len(failed),
        **{f"{what}_seconds": seconds for what, seconds in trainer.seconds.items()},
    }
