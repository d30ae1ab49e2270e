"""Sweeps on real Ray clusters, of two workers on this machine."""

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from geomfast.cli.main import main
from geomfast.runs.errors import PlanError
from geomfast.runs.executors import ray_cluster
from geomfast.runs.executors.events import Event
from geomfast.runs.executors.ray_cluster import on_ray
from geomfast.runs.executors.ray_node import TOKEN
from geomfast.runs.executors.ray_runs import Wanted
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import Settings, run_specs
from geomfast.testbed.training.checkpoints import steps_saved
from tests.fuzz.folders import invoke
from tests.recorded import values

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (geomfast[ray])"
)

SMALL = "--tasks COPY,MOD --levels 1 --samples 16 --batch-size 8 --measures rankme --state-every 0"
#: Runs of their own, one for each worker.
SHORT = f"{SMALL} --steps 100 --checkpoints 20 --seeds 0,1 --stack never --workers 2 --threads 1"
#: Of a sweep that is stopped long before its end.
LONG = f"{SMALL} --steps 2000 --checkpoints 40"
MARK = "GEOMFAST_TEST_RUN"


def sweep(out: Path, *engine: str) -> Result:
    return CliRunner().invoke(main, ["sweep", str(out), *SHORT.split(), *engine])


def kinds(events: list[Event], run: str) -> list[str]:
    return [event.kind for event in events if event.run == run and event.kind != "progress"]


def wait_until(true: Callable[[], bool]) -> None:
    """Poll; the limit is for what never comes true."""
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """A word in the environment of every process that a test starts, however remotely."""
    word = secrets.token_hex(8)
    monkeypatch.setenv(MARK, word)
    # Else Ray would look for one in the home folder.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return word


def marked(word: str) -> list[str]:
    """Command lines of the processes with this word in their environment, less our own tracker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={word}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return [line for line in found if "resource_tracker" not in line]


def holder(lock: Path) -> int:
    """Process that has a run's lock open."""
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if handle.readlink() == lock.resolve():
                return int(handle.parts[2])
        except OSError:
            continue
    raise AssertionError(f"nobody holds {lock}")


def test_same_records_as_local_also_when_a_worker_is_killed(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, killed, other = tmp_path / "ray", "joint-nano-seed0", "joint-nano-seed1"
    records, checkpoints = out / "records" / killed, out / "checkpoints" / killed
    before: dict[Path, int] = {}
    saved = 0
    events: list[Event] = []

    def watched(found: Iterator[Event]) -> Iterator[Event]:
        nonlocal saved
        for event in found:
            events.append(event)
            if event.run == killed and event.step >= 20 and not before:
                before.update({p: p.stat().st_mtime_ns for p in records.glob("step-*")})
                saved = steps_saved(checkpoints)[-1]
                os.kill(holder(checkpoints / ".lock"), signal.SIGKILL)
            yield event

    @contextmanager
    def watched_ray(*arguments: Any) -> Iterator[Iterator[Event]]:
        with on_ray(*arguments) as found:
            yield watched(found)

    monkeypatch.setattr(ray_cluster, "on_ray", watched_ray)
    result = sweep(out, "--engine", "ray")
    assert result.exit_code == 0, result.output
    assert f"{killed}: lost: its worker on node" in result.output
    assert "another resumes from the last checkpoint" in result.output
    wait_until(lambda: not marked(mark))
    assert not list(out.glob(f"{TOKEN}*"))

    seen = [event for event in events if event.run == killed]
    assert kinds(events, killed) == ["started", "lost", "finished"]
    assert kinds(events, other) == ["started", "finished"]
    # Nothing was taken again that had been written, and training went on from the checkpoint.
    assert len(before) > 3
    assert {part: part.stat().st_mtime_ns for part in before} == before
    again = seen[[event.kind for event in seen].index("lost") + 1 :]
    # The first that tells of training; before it a worker has only said what it is at.
    after = next(event for event in again if event.state)
    assert after.step > saved > 0

    invoke("sweep", str(tmp_path / "local"), *SHORT.split(), "--engine", "local")
    pd.testing.assert_frame_equal(values(tmp_path / "local"), values(out))


@pytest.fixture
def head(mark: str) -> Iterator[str]:
    """Address of a running cluster with two CPUs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    folder = Path("/tmp") / f"geomfast-test-{mark}"  # short, for its sockets
    options = f"--port {port} --num-cpus 2 --disable-usage-stats --temp-dir {folder}"
    command = f"start --head --block --include-dashboard=false {options}"
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *command.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert any("Ray runtime started" in line for line in process.stdout)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_polite_stop_on_a_running_cluster_saves_and_leaves(
    tmp_path: Path, head: str, mark: str
) -> None:
    out = tmp_path / "out"
    command = ["sweep", str(out), *LONG.split(), "--engine", "ray", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "geomfast.cli.main", *command, "--address", head],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    parts = out / "records" / "joint-nano-seed0"
    wait_until(lambda: parts.is_dir() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    (outcome,) = json.loads(stdout)["runs"]  # which is alone on stdout
    assert outcome["state"] == "stopped"
    assert steps_saved(out / "checkpoints" / outcome["run"])[-1] == outcome["step"] > 0
    assert not list(out.rglob(".tmp-*")) and not list(out.glob(f"{TOKEN}*"))
    # The cluster continues without our workers.
    ours = ("ray::Worker", f"{sys.executable}\0-m\0geomfast.cli")
    wait_until(lambda: not any(line.startswith(ours) for line in marked(mark)))
    assert any("gcs_server" in line for line in marked(mark))


def test_what_answers_but_is_no_cluster_is_left_in_time(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ray_cluster._PATIENCE, "connecting", 1.0)
    settings = Settings("joint", ("COPY",), (1,), 6, 8, None, "fp32", 6, 2, 6, 16)
    (spec,) = run_specs(settings, ("nano",), (0,))
    job = Job(spec, settings, (), tmp_path, "cpu", threads=1)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            taken = []
            with suppress(OSError):
                while True:
                    taken.append(server.accept()[0])
                    taken[-1].sendall(b"well")

        threading.Thread(target=answer, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with (
            pytest.raises(PlanError, match="no answer while connecting"),
            on_ray([job], Wanted(address, 2), lambda: False),
        ):
            pass
    wait_until(lambda: not marked(mark))
