"""Small finished folders of every kind, made by the commands themselves, for fuzzers to damage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from click.testing import CliRunner
from torch import nn

import geomfast as gf
from geomfast.cli.main import main
from geomfast.runs.executors.engine import Engine
from geomfast.runs.executors.events import Event, attempt

SWEEP = ["--tasks", "COPY", "--levels", "1", "--scales", "nano", "--steps", "8", "--samples", "10"]
SWEEP += ["--checkpoints", "3", "--batch-size", "8", "--measures", "rankme,hessian_top"]
SWEEP += ["--threads", "1", "--keep", "all", "--seeds", "0..1"]
POPULATION = ["--scales", "1x8", "--seeds", "0..2", "--steps", "8", "--train-length", "3"]
POPULATION += ["--test-lengths", "4", "--batch-size", "9", "--samples", "10", "--checkpoints", "3"]
POPULATION += ["--threads", "1"]


@contextmanager
def in_process() -> Iterator[None]:
    """Inside, commands do their work where they are: no process loads torch once more."""

    def events(_: Engine, work: Sequence[Any], stopping: Any) -> Any:
        news: list[Event] = []
        for job in work:
            news += [Event(job.name, "started"), attempt(job, news.append, stopping, patience=0.0)]
        return nullcontext(iter(news))

    with mock.patch.object(Engine, "events", events):
        yield


def invoke(*arguments: str) -> None:
    """A command of geomfast, which has to succeed."""
    with in_process():
        result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output


def make(root: Path) -> dict[str, Path]:
    """Finished folders by their kind: alone, stacked, population, series, tracker."""
    at = {name: root / name for name in ("alone", "stacked", "population", "series", "tracker")}
    invoke("sweep", str(at["alone"]), *SWEEP, "--stack", "never")
    invoke("sweep", str(at["stacked"]), *SWEEP, "--stack", "always")
    invoke("population", str(at["population"]), *POPULATION, "--stack", "always")
    where = ("--out", str(at["series"]), "--measures", "rankme", "--threads", "1")
    invoke("measure", str(at["alone"]), *where)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    x = torch.randn(12, 4)
    tracker = gf.Tracker(
        model,
        lambda model, x: model(x).square().mean(1),
        x,
        measures=("rankme", "fisher_rank"),
        layers=["1", "3"],
        out=at["tracker"],
        max_overhead=None,
    )
    for step in range(4):
        tracker.step(step, loss=1.0)
    tracker.close()
    return at
