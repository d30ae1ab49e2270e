"""A page is made of every folder that a tracker has written, however it was tracked."""

import itertools
import logging
import math

import pytest
from torch import nn

import geomfast as gf
from geomfast.files import read_sealed
from geomfast.records import RecordsError
from geomfast.report import build
from geomfast.report.data import read
from geomfast.report.settings import cadence
from geomfast.tracker import budget
from tests.report.conftest import judge_few
from tests.report.test_assemble import parsed
from tests.tracker.tracked import batch, loss_fn, net

CHAINS = {"draws": 4, "burn_in": 1, "chains": 1, "batch_size": 8}
QUICK = {"hessian_trace": {"probes": 6}, "llc": CHAINS}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    judge_few(monkeypatch)
    monkeypatch.setattr("geomfast.report.figures.TRACKED", ())


def follow(out, steps, *, allowed=None, **options):
    """A tracker's part of a run; `allowed` are the steps that the budget pays for, None all."""
    given = {"measures": ("rankme", "fisher_rank"), "every": 2, "out": out}
    tracker = gf.Tracker(options.pop("model", None) or net(), loss_fn, batch(), **given | options)
    if allowed is not None:
        tracker.budget.affordable = lambda step, every, groups: groups if step in allowed else []
        tracker.budget.affordable_now = lambda groups: []
    for step in steps:
        tracker.step(step, loss=1.0 / (step + 1))
    tracker.close()
    return tracker


def told(out, run="run"):
    found = read(out)
    return cadence(found.settings, run, found.records[found.records["run"] == run])


SHARES = (None, 0.05, 1.0)


@pytest.mark.parametrize(("first", "second"), [*itertools.product(SHARES, SHARES)], ids=str)
def test_thinned_or_not_and_resumed_with_another_budget(first, second, tmp_path):
    allowed = None if first is None else {0, 4}
    follow(tmp_path, range(9), max_overhead=first, allowed=allowed)
    follow(tmp_path, range(4, 17), max_overhead=second, allowed=None if second is None else {12})
    build(tmp_path)
    text = told(tmp_path)
    _, page = parsed(tmp_path / "report.html")
    assert text.split(";")[0] in page
    # 0, 2, ... 16, each counted once, however often the training has come through it.
    measured = (5 if first is None else 2) + (1 if second else 4 if first is None else 6)
    assert text.startswith(f"{measured} of 9 due steps measured")
    share = second if first is None else first
    where = {None: "", 0.05: "(max_overhead = 0.05)", 1.0: "(max_overhead = 1)"}[share]
    assert (where in text) and ("left others out" in text) == (measured < 9)


def test_a_run_that_is_resumed_again_and_again(tmp_path):
    for last in (3, 5, 5, 8):
        follow(tmp_path, range(last + 1), max_overhead=None)
    assert told(tmp_path).startswith("7 of 7 due steps measured")  # 3 and 5, when it was closed


def test_settings_of_a_tracker_that_did_not_say_up_to_where(tmp_path):
    import json

    follow(tmp_path, range(9), max_overhead=0.05, allowed={0, 4})
    path = tmp_path / "settings.json"
    content = read_sealed(path)
    for name in ("until", "thinned_by"):
        del content["tracking"]["run"][name]
    path.write_text(json.dumps(content))
    assert "2 of 5 due steps measured, as the budget (max_overhead = 0.05)" in told(tmp_path)
    follow(tmp_path, range(8, 13), max_overhead=None)
    build(tmp_path)
    assert "(max_overhead = 0.05) left others out from step 2 on" in told(tmp_path)


@pytest.mark.parametrize("steps", [[0], [1], [0, 1], [5, 6, 7]], ids=str)
@pytest.mark.parametrize("measures", ["rankme", "fisher_rank", "hessian_top", "llc"])
@pytest.mark.parametrize("every", ["log", 1])
def test_few_steps_of_one_measure(steps, measures, every, tmp_path):
    follow(tmp_path, steps, measures=measures, every=every, max_overhead=None)
    build(tmp_path)


def test_nothing_measured_is_said(tmp_path):
    follow(tmp_path, [1, 3], max_overhead=0.05, allowed=set())
    with pytest.raises((FileNotFoundError, RecordsError), match="no records"):
        build(tmp_path)


class Failing(nn.Module):
    """Which can be tried, and then runs no more from a call on."""

    def __init__(self, calls):
        super().__init__()
        self.inner, self.left = net(), [calls]

    def forward(self, x):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise ArithmeticError("broken")
        return self.inner(x)


def layered(calls):
    model = Failing(calls)
    return {"model": model, "layers": ["inner.blocks.0", "inner.norm"]}


@pytest.mark.parametrize("calls", [3, 4, 6, 8])
def test_measures_that_fail(calls, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    tracker = follow(tmp_path, range(5), every=1, max_overhead=None, **layered(calls))
    assert tracker is not None
    records = gf.load_records(tmp_path)
    if records["value"].notna().any() and (
        records.loc[records["level"] > 0, "value"].notna().any()
    ):
        build(tmp_path)
    else:
        with pytest.raises(RecordsError, match="hold no value"):
            build(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"layers": ["blocks.0"]},
        {"layers": ["blocks.0", "blocks.1", "norm"]},
        {"states": lambda model: {"final": batch()[0]}},
        {"states": lambda model: {f"block {i + 1}": batch()[0] for i in range(12)}},
        {"params": "!head.*", "position": "mean", "samples": 5},
        {"scale": "a scale with spaces", "name": "näme & <b>", "run": "run (1)"},
        {"scale": "nano", "seed": -3},
        {"total_steps": 1, "max_overhead": 1e9},
        {"total_steps": 1000, "max_overhead": 1e-6},
    ],
    ids=[*range(9)],
)
def test_options_of_all_kinds(options, tmp_path):
    follow(tmp_path, range(6), **{"max_overhead": None, **options})
    build(tmp_path)


def test_runs_tracked_in_different_ways(tmp_path):
    follow(tmp_path, range(4), run="a", max_overhead=None)
    follow(tmp_path, range(9), run="b", seed=1, max_overhead=0.05, allowed={0})
    follow(tmp_path, range(9), run="c", seed=2, every=3, max_overhead=math.pi)
    build(tmp_path)
    assert told(tmp_path, "a").startswith("3 of 3") and told(tmp_path, "b").startswith("1 of 5")
    assert budget.due_between(0, 8, 3) == 3
