"""Options that say where runs happen, and what the user reads of it."""

import dataclasses
import io
import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console

from geomfast import machine
from geomfast.cli import engine as engine_module
from geomfast.cli.engine import chosen_engine
from geomfast.cli.main import main
from geomfast.cli.options import engine_options
from geomfast.cli.progress import Bars, Lines
from geomfast.runs.executors.engine import Engine
from geomfast.runs.executors.events import Event
from geomfast.runs.remaining import Piece
from geomfast.runs.sharing import fitting
from geomfast.sweep.footprint import footprint
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import Settings, run_specs

RAY = "--tasks COPY --levels 1 --steps 4 --samples 4 --batch-size 2 --engine ray"


@click.command()
@engine_options
def choose(**options: Any) -> None:
    click.echo(json.dumps(dataclasses.asdict(chosen_engine(options))))


def call(*arguments: str, env: dict[str, str | None] | None = None) -> Result:
    return CliRunner().invoke(choose, arguments, env={"RAY_ADDRESS": None, **(env or {})})


def chosen(*arguments: str, env: dict[str, str | None] | None = None) -> dict[str, Any]:
    result = call(*arguments, env=env)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "check_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def test_runs_at_once_and_their_threads_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    assert (chosen()["workers"], chosen()["threads"]) == (1, 8)
    for name in ("local", "ray"):
        found = chosen("--engine", name, "--workers", "3")
        assert (found["name"], found["workers"], found["threads"]) == (name, 3, 2)
        assert (found["address"], found["gpus_per_run"]) == (None, 0.0)
        assert chosen("--engine", name, "--workers", "16")["threads"] == 1
        assert chosen("--engine", name, "--workers", "16", "--threads", "3")["threads"] == 3


@pytest.mark.usefixtures("four_gpus")
def test_a_worker_for_each_gpu_or_share_of_one() -> None:
    found = chosen("--device", "cuda")
    assert (found["workers"], found["devices"]) == (4, [f"cuda:{i}" for i in range(4)])
    assert chosen("--device", "cuda", "--workers", "6")["workers"] == 6
    ray = ("--device", "cuda", "--engine", "ray")
    assert (chosen(*ray)["workers"], chosen(*ray)["gpus_per_run"]) == (4, 1.0)
    assert chosen(*ray, "--gpus-per-run", "0.25")["workers"] == 16


@pytest.mark.usefixtures("four_gpus")
def test_only_where_nobody_says_how_many_are_gpus_shared() -> None:
    assert chosen("--device", "cuda")["shared"] and chosen("--device", "cuda:1")["shared"]
    for more in (("--workers", "2"), ("--engine", "ray")):
        assert not chosen("--device", "cuda", *more)["shared"]
    assert not chosen()["shared"]


@pytest.mark.usefixtures("four_gpus")
def test_a_shared_gpu_has_what_fits_and_threads_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the GPUs' memory; a run that is resumed needs its threads again."""
    monkeypatch.setattr(machine, "usable_cores", lambda: 64)
    asked: list[str] = []

    def free(device: str) -> tuple[int, int]:
        asked.append(device)
        return (12 if device == "cuda:2" else 80) << 30, 80 << 30

    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    engine = dataclasses.replace(
        Engine("local", "cuda", tuple(f"cuda:{i}" for i in range(4)), 4, 16), shared=True
    )
    jobs = sharing_jobs("micro", 40)
    taken = [footprint(job) for job in jobs]
    shared = engine.shared_by(taken)
    each = fitting(taken, 12 << 30)
    assert shared.workers == 4 * each and 1 < each < 10
    assert asked == [f"cuda:{i}" for i in range(4)]
    assert (shared.threads, shared.devices) == (16, engine.devices)
    assert dataclasses.replace(engine, shared=False).shared_by(taken).workers == 4


def sharing_jobs(scale: str, seeds: int) -> list[Job]:
    settings = Settings("joint", ("COPY",), (1,), 100, 8, None, "fp32", 4, 2, 8, 16)
    planned = run_specs(settings, (scale,), tuple(range(seeds)))
    return [Job(spec, settings, ("llc",), Path("nowhere"), "cuda", threads=1) for spec in planned]


def test_a_running_cluster_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    ray = ("--engine", "ray", "--address", "head:6379", "--device", "cuda")
    found = chosen(*ray)  # whether or not this machine has a GPU
    assert (found["workers"], found["threads"], found["address"]) == (None, 1, "head:6379")
    assert found["gpus_per_run"] == 1.0
    found = chosen(*ray, "--workers", "5", "--threads", "4", "--gpus-per-run", "0.5")
    assert (found["workers"], found["threads"], found["gpus_per_run"]) == (5, 4, 0.5)


def test_ray_address_counts_for_ray_only() -> None:
    env: dict[str, str | None] = {"RAY_ADDRESS": "head:6379"}
    assert chosen(env=env)["address"] is None
    assert chosen("--engine", "ray", env=env)["address"] == "head:6379"
    assert chosen("--engine", "ray", "--address", "local", env=env)["address"] is None


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--address", "auto"], "--address needs --engine ray"),
        (["--gpus-per-run", "0.5"], "--gpus-per-run needs --engine ray"),
        (["--engine", "ray", "--gpus-per-run", "0.5"], "--gpus-per-run needs --device cuda"),
        (["--engine", "ray", "--gpus-per-run", "2"], "2.0 is not in the range"),
        (["--engine", "ray", "--device", "cuda:1"], "Ray chooses the GPU"),
        (["--engine", "dask"], "'local', 'ray'"),
        (["--workers", "0"], "0 is not in the range"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: list[str], why: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert why in result.output


def test_an_address_that_does_not_answer_is_an_error_in_time(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (geomfast[ray])")

    def sweep(address: str) -> Result:
        begin = time.monotonic()
        result = CliRunner().invoke(
            main, ["sweep", str(tmp_path), *RAY.split(), "--address", address]
        )
        assert time.monotonic() - begin < 60  # with the import of Ray in another process
        assert result.exit_code == 2
        assert f"--address {address}: no answer" in result.output
        return result

    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and says nothing
        address = f"127.0.0.1:{server.getsockname()[1]}"
        sweep(address)
    assert "Connection refused" in sweep(address).output


PIECES = [Piece(name, "nano", {10: {"rankme"}}) for name in "ab"]
LOST = Event("a", "lost", 3, {"loss": 1.0}, error="its worker is gone; another goes on")


def test_lines_say_that_a_worker_was_lost_and_do_not_count_it() -> None:
    written = io.StringIO()
    with Lines(Console(file=written, width=200), PIECES) as lines:
        for event in (Event("a", "started"), LOST, Event("a", "finished", 10, {"loss": 0.5})):
            lines.show(event)
    assert written.getvalue().splitlines() == [
        "a: started",
        "a: lost: its worker is gone; another goes on",
        "a: finished (1 of 2 runs)",
    ]


def test_bars_say_that_a_worker_was_lost_and_take_a_failure_before_the_start() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    with Bars(console, PIECES) as bars:
        for event in (Event("a", "started"), LOST, Event("b", "failed", error="no worker")):
            bars.show(event)
    assert "a: its worker is gone; another goes on" in written.getvalue()
    assert re.search(r"\bb .*failed", written.getvalue())


@pytest.mark.parametrize("command", [f"sweep {{}} {RAY[:-13]}", "population {} --task count"])
def test_a_backend_that_does_not_exist_is_refused_before_any_work(command, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMFAST_BACKEND", "fast")
    done = CliRunner().invoke(main, command.format(tmp_path / "out").split())
    assert done.exit_code == 2 and "GEOMFAST_BACKEND=fast: there are reference, " in done.output
    assert not list((tmp_path / "out").glob("**/*.parquet"))
