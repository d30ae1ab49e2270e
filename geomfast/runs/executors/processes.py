"""Runs in processes of their own on this machine, a few at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess

from geomfast.runs.executors.events import TERMINAL, Event, Work, attempt
from geomfast.runs.executors.orphans import body_of, orphaned, watched
from geomfast.runs.executors.placing import largest_first, least_loaded, only

#: Signals that ask a command to finish its current write and stop.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class _Running:
    job: Work
    process: SpawnProcess
    connection: Connection
    device: str


def local(
    jobs: Sequence[Work],
    workers: int,
    stop: Callable[[], bool],
    devices: Sequence[str] = (),
) -> Generator[Event, None, None]:
    """Run jobs in processes of their own, ``workers`` at a time, the largest first.

    A run that fails, or whose process is killed, leaves the others running.

    Args:
        jobs: what to run.
        workers: processes at once.
        stop: asked several times a second; when true, no job is started any more and those
            running are told to save and leave.
        devices: GPUs to spread the runs over, the least loaded next; a run sees its own only, as
            ``cuda:0``. With one or none, every run is on the device its job names.

    Yields:
        Events as they come; the last event of a run is finished, stopped or failed.
    """
    # spawn: a forked child would inherit torch's thread pools in an unusable state.
    context = multiprocessing.get_context("spawn")
    # Started with the first child, it would unblock the signals blocked for that child's birth.
    resource_tracker.ensure_running()
    waiting = largest_first(jobs)
    running: dict[str, _Running] = {}
    told = False
    try:
        while waiting or running:
            if stop():
                waiting.clear()
                if not told:
                    for one in running.values():
                        one.process.terminate()
                    told = True
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[job.name] = _start(context, job, _place(devices, running))
                yield Event(job.name, "started")
            ready = wait([one.connection for one in running.values()], timeout=0.25)
            for name, one in list(running.items()):
                if one.connection not in ready:
                    continue
                event = _receive(one.connection)
                if event is None:  # the process ended without its last word
                    one.process.join()
                    event = Event(name, "failed", error=how_it_ended(one.process.exitcode))
                yield event
                if event.kind in TERMINAL:
                    one.process.join()
                    del running[name]
    finally:  # a caller that leaves early, at a second Ctrl-C say, leaves nothing behind
        for one in running.values():
            one.process.kill()
            one.process.join()


def _place(devices: Sequence[str], running: dict[str, _Running]) -> str:
    """The device for the next run; empty where there is no choice."""
    if len(devices) < 2:
        return ""
    loads: dict[str, list[float]] = {device: [] for device in devices}
    for one in running.values():
        loads[one.device].append(one.job.cost)
    return least_loaded(loads)


def _start(context: SpawnContext, job: Work, device: str) -> _Running:
    receiver, sender = context.Pipe(duplex=False)
    environment = {}
    if device:
        # Masked from birth: code that never heard of a second GPU cannot touch it, and records
        # do not depend on which one was free.
        visible = only(device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        environment = {"CUDA_VISIBLE_DEVICES": visible}
    process = context.Process(
        target=watched,
        args=(body_of(_child, replace(job, device="cuda:0") if device else job), sender),
        name=job.name,
    )
    with _environment(environment):
        start_with_signals_blocked(process)
    sender.close()
    return _Running(job, process, receiver, device)


def start_with_signals_blocked(process: SpawnProcess) -> None:
    """Start a process with the polite signals blocked until it unblocks them.

    Met by one before it can handle it, a process would die with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Environment variables for a child that is started within."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _receive(connection: Connection) -> Event | None:
    try:
        return connection.recv()
    except (EOFError, OSError):  # OSError: killed in the middle of a message
        return None


def how_it_ended(code: int | None) -> str:
    """A description of a process's exit code."""
    if code is not None and code < 0:
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"process killed by {signal.Signals(-code).name}{hint}"
    return f"process ended with exit code {code}"


def _child(job: Work, sender: Connection) -> None:
    """Body of a run's process: run the job and send events."""
    asked: list[int] = []
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, frame: asked.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def send(event: Event) -> None:
        with contextlib.suppress(OSError):  # a killed parent cannot be told
            sender.send(event)

    def stop() -> bool:
        return bool(asked) or orphaned()  # a sweep that is killed outright cannot tell its runs

    send(attempt(job, send, stop, patience=30.0))
    sender.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is written and sent. To take torch's modules apart would keep the sweep waiting for
    # seconds, and longer where others use the processors too.
    os._exit(0)
