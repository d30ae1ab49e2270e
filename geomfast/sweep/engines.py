"""Where runs happen. ``local``: one process a run on this machine, a few at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from geomfast.sweep.cell import CellError, Job, run
from geomfast.sweep.folder import FolderInUse
from geomfast.sweep.plan import PlanError
from geomfast.training.checkpoints import CheckpointError
from geomfast.training.loop import TrainingDiverged

#: Signals that ask a sweep to finish the write in hand and leave.
_POLITE = (signal.SIGINT, signal.SIGTERM)
#: Failures whose message says what happened and what to do; a traceback would only bury it.
_EXPLAINED = (CellError, CheckpointError, PlanError, TrainingDiverged, OSError)


@dataclass(frozen=True)
class Event:
    """News of a run.

    Attributes:
        run: its name.
        kind: ``started``, ``progress``, ``finished``, ``stopped`` or ``failed``.
        step: optimiser steps taken.
        state: see :func:`geomfast.sweep.cell.run`.
        error: for ``failed``, why.
        details: the traceback, where the error alone does not explain itself.
    """

    run: str
    kind: str
    step: int = 0
    state: dict[str, float] = field(default_factory=dict)
    error: str = ""
    details: str = ""


def local(jobs: list[Job], workers: int, stop: Callable[[], bool]) -> Iterator[Event]:
    """Run jobs in processes of their own, ``workers`` at a time.

    A run that fails, or whose process is killed, leaves the others running.

    Args:
        jobs: what to run, in order.
        workers: processes at once.
        stop: asked several times a second; when true, no job is started any more and those
            running are told to save and leave.

    Yields:
        Events as they come; the last event of a run is finished, stopped or failed.
    """
    # spawn: a forked child would inherit torch's thread pools in an unusable state.
    context = multiprocessing.get_context("spawn")
    # Started with the first child, it would unblock the signals blocked for that child's birth.
    resource_tracker.ensure_running()
    waiting, running = list(jobs), {}
    told = False
    while waiting or running:
        if stop():
            waiting.clear()
            if not told:
                for process, _ in running.values():
                    process.terminate()
                told = True
        while waiting and len(running) < workers:
            job = waiting.pop(0)
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(job, sender), name=job.cell.run)
            # A child met by a signal before it can handle one would die with a traceback: it is
            # born with them blocked, and unblocks them when it is ready.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _POLITE)
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            sender.close()
            running[job.cell.run] = (process, receiver)
            yield Event(job.cell.run, "started")
        ready = wait([connection for _, connection in running.values()], timeout=0.25)
        for name, (process, connection) in list(running.items()):
            if connection not in ready:
                continue
            event = _receive(name, connection)
            if event is None:  # the process ended without its last word
                process.join()
                event = Event(name, "failed", error=_how_it_ended(process.exitcode))
            yield event
            if event.kind in ("finished", "stopped", "failed"):
                process.join()
                del running[name]


def _receive(name: str, connection: Connection) -> Event | None:
    try:
        return connection.recv()
    except (EOFError, OSError):  # OSError: killed in the middle of a message
        return None


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"process killed by {signal.Signals(-code).name}{hint}"
    return f"process ended with exit code {code}"


def _child(job: Job, sender: Connection) -> None:
    """Body of a run's process: run the job and send events."""
    parent = os.getppid()
    asked: list[int] = []
    for number in _POLITE:
        signal.signal(number, lambda number, frame: asked.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _POLITE)
    last = Event(job.cell.run, "progress")

    def progress(step: int, state: dict[str, float]) -> None:
        nonlocal last
        last = Event(job.cell.run, "progress", step, state)
        sender.send(last)

    def stop() -> bool:
        # A sweep killed outright cannot tell its runs; they see that their parent changed.
        return bool(asked) or os.getppid() != parent

    try:
        finished = _run_when_free(job, progress, stop)
        event = replace(last, kind="finished" if finished else "stopped")
    except _EXPLAINED as error:
        event = replace(last, kind="failed", error=f"{type(error).__name__}: {error}")
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        event = replace(last, kind="failed", error=why, details=traceback.format_exc())
    with contextlib.suppress(OSError):  # a killed parent cannot be told
        sender.send(event)
    sender.close()


def _run_when_free(
    job: Job, progress: Callable[[int, dict[str, float]], None], stop: Callable[[], bool]
) -> bool:
    """Run a job, giving the orphan of a killed sweep a moment to let go of the run first."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return run(job, progress, stop)
        except FolderInUse:
            if time.monotonic() > deadline or stop():
                raise
            time.sleep(0.2)
