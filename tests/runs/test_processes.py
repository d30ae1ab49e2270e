"""The local engine: order, devices, and runs that fail beside runs that do not."""

import dataclasses
import os
import pickle
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from geomfast.records import load_records
from geomfast.runs.executors import processes
from geomfast.runs.executors.events import Event
from geomfast.runs.executors.processes import local
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import Settings, run_specs

SETTINGS = Settings("joint", ("COPY",), (1,), 3, 8, None, "fp32", 2, 2, 3, 16)


def job(out: Path, scale: str = "nano", seed: int = 0, **changes: Any) -> Job:
    settings = dataclasses.replace(SETTINGS, **changes)
    (spec,) = run_specs(settings, (scale,), (seed,))
    return Job(spec, settings, ("rankme",), out, "cpu", threads=1)


def test_one_diverges_and_the_other_goes_on(tmp_path: Path) -> None:
    jobs = [job(tmp_path, seed=1, learning_rate=1e30), job(tmp_path)]
    last = {event.run: event for event in local(jobs, workers=2, stop=lambda: False)}
    kinds = {run: event.kind for run, event in last.items()}
    assert kinds == {"joint-nano-seed1": "failed", "joint-nano-seed0": "finished"}
    failed = last["joint-nano-seed1"]
    assert "lower the learning rate" in failed.error
    assert failed.explained and "Traceback" in failed.details and "check_finite" in failed.details
    assert set(load_records(tmp_path)["run"]) == set(kinds)


class Context:
    """Stands in for multiprocessing: notes what a process is born with, and ends it at once."""

    def __init__(self) -> None:
        self.born: list[tuple[str, str, str | None]] = []

    def Pipe(self, duplex: bool) -> Any:
        return Pipe(duplex)

    def Process(self, target: Any, args: Any, name: str) -> Any:
        body, sender = args
        _, (given,) = pickle.loads(body)

        def start() -> None:
            self.born.append((name, given.device, os.environ.get("CUDA_VISIBLE_DEVICES")))
            sender.send(Event(name, "finished"))

        return SimpleNamespace(start=start, join=lambda: None)


@pytest.mark.parametrize("visible", [None, "4,6,7"])
def test_runs_are_spread_over_gpus_and_see_their_own_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    context = Context()
    monkeypatch.setattr(processes.multiprocessing, "get_context", lambda method: context)
    scales = ("nano", "micro", "small", "medium")
    jobs = [dataclasses.replace(job(tmp_path, scale), device="cuda") for scale in scales]
    gpus = ("cuda:0", "cuda:1", "cuda:2")
    events = list(local(jobs, workers=4, stop=lambda: False, devices=gpus))
    assert sum(event.kind == "finished" for event in events) == 4
    names = visible.split(",") if visible else ["0", "1", "2"]
    assert context.born == [
        ("joint-medium-seed0", "cuda:0", names[0]),
        ("joint-small-seed0", "cuda:0", names[1]),
        ("joint-micro-seed0", "cuda:0", names[2]),
        ("joint-nano-seed0", "cuda:0", names[2]),
    ]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_one_device_is_left_as_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context()
    monkeypatch.setattr(processes.multiprocessing, "get_context", lambda method: context)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given = dataclasses.replace(job(tmp_path), device="cuda:1")
    list(local([given], workers=1, stop=lambda: False, devices=("cuda:1",)))
    assert context.born == [("joint-nano-seed0", "cuda:1", None)]
