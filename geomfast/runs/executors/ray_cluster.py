"""Runs on a Ray cluster: a running one, or one started on this machine for the sweep."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import multiprocessing
import os
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from geomfast.runs.errors import PlanError
from geomfast.runs.executors.events import TERMINAL, Event, Work
from geomfast.runs.executors.orphans import body_of, watched
from geomfast.runs.executors.processes import how_it_ended, start_with_signals_blocked
from geomfast.runs.executors.ray_driver import LOG, drive
from geomfast.runs.executors.ray_runs import Wanted

_PREFIX = "geomfast-ray-"
#: Age in seconds from which an unlocked folder is taken for that of a killed command.
_LEFT_SECONDS = 60.0
#: Seconds for a connection to be accepted, and for the first byte of an answer.
_ANSWER_SECONDS = 4.0
#: How a client of gRPC begins (RFC 9113, 3.4): the preface and an empty SETTINGS frame. A server
#: answers it at once, one that speaks TLS by closing.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
#: Seconds for each stage before the first run; a cluster that is there takes two or three to
#: connect to.
_PATIENCE = {"importing": 120.0, "connecting": 10.0, "starting": 120.0, "looking": 90.0}
#: Seconds for the driver to leave, and a cluster of its own with it.
_LEAVE_SECONDS = 30.0
#: The same once the sweep has been killed: it, and that cluster, are ended then.
_ORPHANED = 6.0


@contextlib.contextmanager
def on_ray(
    jobs: Sequence[Work], wanted: Wanted, stop: Callable[[], bool]
) -> Iterator[Iterator[Event]]:
    """Run jobs on a Ray cluster, the largest first.

    Records and checkpoints go where the local engine puts them: OUT must be on a file system that
    every node shares, and geomfast installed on all nodes.  A run whose worker is lost resumes
    from its last checkpoint on another one, unless it is lost three times in a row without
    getting further.  A cluster that was started here ends with the context.

    Args:
        jobs: what to run.
        wanted: which cluster, and what of it.
        stop: asked several times a second; when true, no job is started any more and those
            running are told to save and leave.

    Yields:
        Events as they come, as from the local engine; entering waits for the cluster.

    Raises:
        PlanError: ray is not installed, the address does not answer, there is no room for a run,
            or a node does not see OUT or has another geomfast.
    """
    if importlib.util.find_spec("ray") is None:
        raise PlanError("--engine ray needs Ray: pip install 'geomfast[ray]'")
    if not jobs:
        yield iter(())
        return
    if wanted.address not in (None, "auto"):
        refuse_dead(wanted.address)
    with (
        _folder() as folder,
        _driver(jobs, wanted, folder) as (process, connection),
    ):
        if _ready(process, connection, wanted, folder, stop):
            yield _events(process, connection, folder, jobs, stop)
        else:
            _kill(process)  # no run has begun: there is nothing to save
            yield iter(())


def refuse_dead(address: str) -> None:
    """Check that something answers at an address, which Ray takes half a minute to find out.

    Args:
        address: of a running cluster; not ``auto``.

    Raises:
        PlanError: not HOST:PORT, or nothing answers there within eight seconds.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise PlanError(
            f"--address {address}: an address is HOST:PORT, as `ray start` has printed it, or auto"
        )
    try:
        where = (host.strip("[]"), int(port))
        with socket.create_connection(where, _ANSWER_SECONDS) as connection:
            connection.sendall(_HELLO)
            connection.recv(1)
    except ConnectionResetError:  # closed, which is an answer
        return
    except TimeoutError as error:
        raise PlanError(f"--address {address}: no answer within {_ANSWER_SECONDS:g} s") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise PlanError(f"--address {address}: no answer: {why}") from error


@contextlib.contextmanager
def _folder(under: Path = Path("/tmp")) -> Iterator[Path]:
    """A folder for Ray's own files, removed afterwards, as those of killed commands are before.

    Not in $TMPDIR, whose path may be too long for Ray's sockets.
    """
    for left in under.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            of_whom = left.lstat()
            old = time.time() - of_whom.st_mtime > _LEFT_SECONDS
            if old and of_whom.st_uid == os.getuid() and stat.S_ISDIR(of_whom.st_mode):
                with _held(left):
                    shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(
            prefix=_PREFIX, dir=under, ignore_cleanup_errors=True
        ) as folder,
        _held(Path(folder)),
    ):
        yield Path(folder)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A folder that no other command takes for one that was left; BlockingIOError if one has it."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(number)


@contextlib.contextmanager
def _driver(
    jobs: Sequence[Work], wanted: Wanted, folder: Path
) -> Iterator[tuple[SpawnProcess, Connection]]:
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    # Workers have other working directories.
    jobs = [replace(job, out=job.out.resolve()) for job in jobs]
    body = body_of(drive, jobs, wanted, folder)
    process = context.Process(target=watched, args=(body, its, _ORPHANED), name="ray driver")
    start_with_signals_blocked(process)
    its.close()
    try:
        yield process, ours
        ours.close()  # which tells it to leave, if it has not left
        process.join(_LEAVE_SECONDS)
    finally:
        if process.exitcode != 0:
            _kill(process)
        ours.close()


def _kill(process: SpawnProcess) -> None:
    """End the driver, and the servers of a cluster it has started: they are in its session."""
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError):  # it is not its leader yet, or has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _ready(
    process: SpawnProcess,
    connection: Connection,
    wanted: Wanted,
    folder: Path,
    stop: Callable[[], bool],
) -> bool:
    """Wait for the cluster; false if stopped before it is ready."""
    where = f"Ray at {wanted.address}" if wanted.address else "Ray on this machine"
    stage, begin = "importing", time.monotonic()
    while stage != "running":
        if stop():
            return False
        if time.monotonic() > begin + _PATIENCE[stage]:
            hint = ""
            if stage == "connecting":
                hint = "; if it is there and asks for a token, set RAY_AUTH_MODE=token"
            raise PlanError(
                f"{where}: no answer while {stage}, within {_PATIENCE[stage]:.0f} s{hint}"
            )
        try:
            if not connection.poll(0.25):
                continue
            kind, what = connection.recv()
        except (EOFError, OSError):
            process.join()
            raise PlanError(f"{where}: {_end(process, folder)}") from None
        if kind == "refused":
            raise PlanError(f"{where}: {what}")
        stage, begin = what, time.monotonic()
    return True


def _events(
    process: SpawnProcess,
    connection: Connection,
    folder: Path,
    jobs: Sequence[Work],
    stop: Callable[[], bool],
) -> Iterator[Event]:
    unfinished = {job.name: Event(job.name, "progress") for job in jobs}
    told = False
    while unfinished:
        try:
            if stop() and not told:
                told = True
                connection.send("stop")
            if not connection.poll(0.25):
                continue
            _, event = connection.recv()
        except (EOFError, OSError):
            break
        unfinished[event.run] = event
        if event.kind in TERMINAL:
            del unfinished[event.run]
        yield event
    process.join(_LEAVE_SECONDS)
    if process.exitcode not in (0, None):  # None: it is done, but cannot leave
        for last in unfinished.values():
            yield replace(last, kind="failed", error=_end(process, folder))


def _end(process: SpawnProcess, folder: Path) -> str:
    """Description of how the driver ended, with its last output."""
    log = folder / LOG
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return "\n".join([f"the driver of the cluster: {how_it_ended(process.exitcode)}", *lines[-5:]])
