"""Nothing trains on once the command that has started it is gone, whenever and however it went."""

import atexit
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from geomfast.runs.executors import orphans, processes
from geomfast.runs.executors.events import Progress
from geomfast.runs.executors.orphans import body_of, watched
from tests.fuzz.folders import invoke
from tests.recorded import values
from tests.runs.killed import SOON, Command, marked

TINY = ("--tasks", "COPY", "--levels", "1", "--scales", "nano", "--seeds", "0,1")
TINY += ("--samples", "8", "--batch-size", "4", "--threads", "1", "--stack", "never")
#: So long that no test waits for its end.
LONG = ("--steps", "20000000", "--checkpoints", "3")
SLOW = ("--llc-chains", "2", "--llc-draws", "300000")


@contextmanager
def command(*arguments: object) -> Iterator[Command]:
    started = Command(*arguments)
    try:
        yield started
    finally:
        started.end()


@pytest.mark.parametrize("seconds", [0.1, 0.7, 1.3, 2.0])
def test_a_command_killed_at_its_start_leaves_nobody(tmp_path: Path, seconds: float) -> None:
    with command("sweep", tmp_path / "out", *TINY, *LONG, "--workers", 2) as sweep:
        time.sleep(seconds)
        sweep.send(signal.SIGKILL)
        assert sweep.left() == {}


def workers(sweep: Command) -> dict[int, str]:
    return {pid: said for pid, said in marked(sweep.mark).items() if "spawn_main" in said}


def wait_for_workers(sweep: Command) -> None:
    deadline = time.monotonic() + 300
    while not workers(sweep):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0])
def test_a_command_killed_while_its_workers_begin_leaves_nobody(
    tmp_path: Path, seconds: float
) -> None:
    with command("sweep", tmp_path / "out", *TINY, *LONG, "--workers", 2) as sweep:
        wait_for_workers(sweep)
        time.sleep(seconds)
        sweep.send(signal.SIGKILL)
        assert sweep.left() == {}


def wait_for_llc(out: Path, parts: int) -> None:
    """Until so many runs are at their first checkpoint, and a little longer."""
    deadline = time.monotonic() + 300
    while len([*(out / "checkpoints").glob("*/.lock")]) < parts:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2.0)


def test_a_command_killed_during_a_long_measure_leaves_nobody(tmp_path: Path) -> None:
    arguments = (*TINY, "--steps", "2", "--checkpoints", "2", "--measures", "llc", *SLOW)
    with command("sweep", tmp_path / "out", *arguments, "--workers", 2) as sweep:
        wait_for_llc(tmp_path / "out", 2)
        sweep.send(signal.SIGKILL)
        assert sweep.left() == {}


@pytest.mark.parametrize(
    ("number", "stack"), [(signal.SIGTERM, "never"), (signal.SIGINT, "always")]
)
def test_a_long_measure_does_not_keep_a_stop_waiting(
    tmp_path: Path, number: signal.Signals, stack: str
) -> None:
    arguments = (*TINY, "--steps", "2", "--checkpoints", "2", "--measures", "llc", *SLOW)
    with command("sweep", tmp_path / "out", *arguments, "--stack", stack) as sweep:
        wait_for_llc(tmp_path / "out", 1)
        sweep.send(number)
        code, said = sweep.ended()
    assert code == 130, said
    assert "Traceback" not in said and "stopped" in said


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    with command("sweep", tmp_path / "out", *TINY, *LONG, "--workers", 2) as sweep:
        wait_for_workers(sweep)
        for pid in workers(sweep):
            os.kill(pid, signal.SIGSTOP)  # none of them will hear of the first
        sweep.send(signal.SIGINT)
        time.sleep(0.5)
        sweep.send(signal.SIGINT)
        code, said = sweep.ended()
        assert sweep.left() == {}
    assert code == 130
    assert "Traceback" not in said and "run the same command again" in said.lower()


def test_what_is_stopped_and_gone_on_with_has_the_same_values(tmp_path: Path) -> None:
    few = ("--llc-chains", "2", "--llc-draws", "20", "--measures", "llc,hessian_top")
    arguments = (*TINY[:-2], "--steps", "4", "--checkpoints", "2", *few, "--seeds", "0")
    found = []
    for out in (tmp_path / "whole", tmp_path / "stopped"):
        if out.name == "stopped":
            with command("sweep", out, *arguments) as sweep:
                wait_for_llc(out, 1)
                sweep.send(signal.SIGTERM)
                assert sweep.ended()[0] == 130
        invoke("sweep", str(out), *arguments)
        keys = ["run", "step", "task", "level", "layer", "measure"]
        found.append(values(out).sort_values(keys, ignore_index=True))
    assert found[0].equals(found[1])


class Slow:
    """What takes long to be torn down."""

    seconds = 30.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        (self.folder / "torn down").touch()
        time.sleep(self.seconds)


@dataclass(frozen=True)
class Nothing:
    """Work that is done as soon as it has begun."""

    folder: str
    name: str = "nothing"
    device: str = "cpu"
    threads: int = 1
    cost: float = 1.0

    @property
    def out(self) -> Path:
        return Path(self.folder)

    def run(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        atexit.register(Slow(self.out))
        return True


def stands(connection: Connection) -> None:
    """Body of a process that hears nothing and never ends by itself."""
    connection.send(os.getpid())
    while True:
        time.sleep(1.0)


def parent_of(connection: Connection) -> None:
    """Body of a process that starts another one and is killed meanwhile."""
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=watched, args=(body_of(stands), connection, 0.5))
    child.start()
    child.join()


def test_a_process_that_does_not_listen_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    context: Any = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    parent = context.Process(target=parent_of, args=(theirs,))
    parent.start()
    theirs.close()
    child = ours.recv()
    parent.kill()
    parent.join()
    deadline = time.monotonic() + SOON
    with pytest.raises(EOFError):  # the child held the last other end
        ours.poll(deadline - time.monotonic())
        ours.recv()
    assert time.monotonic() < deadline
    with pytest.raises(ProcessLookupError):
        for _ in range(600):
            os.kill(child, 0)
            time.sleep(0.1)


def test_a_child_is_no_orphan_while_its_parent_lives() -> None:
    assert not orphans.orphaned()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with two checkpoints of each run."""
    out = tmp_path_factory.mktemp("swept") / "out"
    kept = ("--steps", "2", "--checkpoints", "2", "--measures", "rankme", "--keep", "all")
    invoke("sweep", str(out), *TINY, *kept)
    return out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_measuring_checkpoints_in_two_processes(
    checkpoints: Path, tmp_path: Path, number: signal.Signals
) -> None:
    measured = tmp_path / "measured"
    chains = ("--measures", "llc", "--llc-chains", "2", "--llc-draws", "300000")
    measure = ("measure", checkpoints, "--out", measured, *chains, "--workers", 2, "--threads", 1)
    with command(*measure) as measuring:
        deadline = time.monotonic() + 300
        while len([*measured.glob(".jobs/*/.lock")]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(2.0)
        measuring.send(number)
        if number == signal.SIGTERM:
            # Several of them are of the first import of what counts operations, twice at once.
            code, said = measuring.ended()
            assert code == 130, said
            assert "Traceback" not in said and "stopped" in said
        assert measuring.left() == {}
    parts = [path.name for path in (measured / "records").glob("*/*.parquet")]
    assert not any("llc" in name for name in parts)
    if number == signal.SIGTERM:  # what was complete is kept
        steps = ("step-00000000", "step-00000002")
        assert sorted(parts) == [f"{step}.behaviour.parquet" for step in steps]


def test_a_worker_that_has_done_its_work_is_gone_at_once(tmp_path: Path) -> None:
    """Not after the seconds that the interpreter takes to tear its modules down."""
    context: Any = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    body = body_of(processes._child, Nothing(str(tmp_path)))
    child = context.Process(target=watched, args=(body, theirs))
    child.start()
    theirs.close()
    assert ours.recv().kind == "finished"
    began = time.monotonic()
    child.join(SOON)
    assert child.exitcode == 0 and time.monotonic() - began < Slow.seconds
    assert not (tmp_path / "torn down").exists()


@pytest.mark.parametrize("seconds", [0.0, 4.0])
def test_a_cluster_of_its_own_ends_with_the_command(tmp_path: Path, seconds: float) -> None:
    pytest.importorskip("ray")
    arguments = (*TINY, *LONG, "--engine", "ray", "--workers", 1)
    with command("sweep", tmp_path / "out", *arguments) as sweep:
        wait_for_workers(sweep)  # its driver is one of them
        time.sleep(seconds)
        sweep.send(signal.SIGKILL)
        assert sweep.left() == {}
