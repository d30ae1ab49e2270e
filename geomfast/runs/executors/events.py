"""Shared by all engines: named work, one attempt at it, and its events."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from geomfast.estimators.stopping import Stopped, stopped_by
from geomfast.files import FileError
from geomfast.measures.activity import heard_by
from geomfast.runs.errors import PlanError, RunError
from geomfast.runs.locks import FolderInUse
from geomfast.testbed.training.checkpoints import CheckpointError
from geomfast.testbed.training.loop import TrainingDiverged

#: Called with the step reached and the state of the run there.
Progress = Callable[[int, dict[str, float]], None]
#: Minimum time between two calls; each reads the loss, for which a GPU has to wait.
PROGRESS_SECONDS = 0.25
#: Kinds of a run's last event.
TERMINAL = ("finished", "stopped", "failed")
#: Errors whose message says what happened and what to do, shown without a traceback.
USER_ERRORS = (RunError, CheckpointError, FileError, PlanError, TrainingDiverged, OSError)


class Work(Protocol):
    """Work for an engine: runs to train, or checkpoints to measure; a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """Name of the work, unique in its folder."""
        ...

    @property
    def out(self) -> Path:
        """Folder of the results."""
        ...

    @property
    def device(self) -> str:
        """Device that the work is done on."""
        ...

    @property
    def threads(self) -> int:
        """Number of CPU threads."""
        ...

    @property
    def cost(self) -> float:
        """Relative cost; the most expensive work is started first."""
        ...

    def run(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        """Do the work, resuming it if it was begun; returns whether it is finished."""
        ...


@dataclass(frozen=True)
class Event:
    """A change in the state of a run.

    Attributes:
        run: its name.
        kind: ``started``, ``progress``, ``lost`` (its worker; another one will resume from the last
            checkpoint), or one of :data:`TERMINAL`.
        step: optimiser steps taken.
        state: see :func:`geomfast.runs.training.train_to_checkpoints`.
        error: for ``failed`` and ``lost``, why.
        doing: training, writing, or the names of the measures in hand, separated by commas.
        details: for ``failed``, the traceback where there is one.
        explained: whether the error says all that a user needs.
    """

    run: str
    kind: str
    step: int = 0
    state: dict[str, float] = field(default_factory=dict)
    error: str = ""
    details: str = ""
    explained: bool = False
    doing: str = ""


def attempt(
    job: Work, send: Callable[[Event], None], stop: Callable[[], bool], *, patience: float
) -> Event:
    """Run a job in this process and report how it ends.

    Args:
        job: what to run.
        send: called with every progress event.
        stop: asked after every step, and by measures between theirs; when true the measure in hand
            is dropped, the state saved and the run left.
        patience: seconds to wait for another process to release the run: one orphaned by a
            sweep that was killed notices soon, and saves its state first.

    Returns:
        The run's last event.
    """
    last = Event(job.name, "progress")

    def progress(step: int, state: dict[str, float]) -> None:
        nonlocal last
        last = replace(last, step=step, state=state)
        send(last)

    def heard(activity: str, step: int | None) -> None:
        nonlocal last
        last = replace(last, doing=activity, step=last.step if step is None else step)
        send(last)

    try:
        with stopped_by(stop), heard_by(heard):
            finished = _run_when_free(job, progress, stop, time.monotonic() + patience)
    except Stopped:
        finished = False
    except Exception as error:
        return replace(
            last,
            doing="",
            kind="failed",
            # What a run says of itself is a whole sentence.
            error=str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}",
            details=traceback.format_exc(),
            explained=isinstance(error, USER_ERRORS),
        )
    return replace(last, kind="finished" if finished else "stopped", doing="")


def _run_when_free(
    job: Work,
    progress: Progress,
    stop: Callable[[], bool],
    deadline: float,
) -> bool:
    while True:
        try:
            return job.run(progress, stop)
        except FolderInUse:
            if time.monotonic() > deadline or stop():
                raise
            time.sleep(0.2)
