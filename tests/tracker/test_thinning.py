"""A tracker whose measures cost what a made-up clock says: which are taken, and what is noted."""

import functools
import json

import pytest

import geomfast as gf
from geomfast.files import write_sealed
from geomfast.report.data import read
from geomfast.report.settings import cadence
from geomfast.runs.recorded import recorded
from geomfast.tracker import tracker as module
from geomfast.tracker.budget import Budget
from geomfast.tracker.schedule import due
from geomfast.tracker.values import Evaluator
from tests.tracker.test_budget import Clock
from tests.tracker.tracked import batch, loss_fn, net

SECONDS = {"loss": 0.001, "rankme": 0.01, "llc": 1.0}
STEP = 0.1
QUICK = {"draws": 2, "burn_in": 0, "chains": 1}


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    measure = Evaluator.measure

    def slow(self, group, failed):
        clock.now += sum(SECONDS[name] for name in group.names)
        return measure(self, group, failed)

    monkeypatch.setattr(Evaluator, "measure", slow)
    monkeypatch.setattr(module, "Budget", functools.partial(Budget, clock=clock))
    return clock


def follow(clock, out, first, last, model=None, **options):
    given = {"measures": ("rankme", "llc"), "llc": QUICK, "out": out}
    tracker = gf.Tracker(model or net(), loss_fn, batch(), **given | options)
    for step in range(first, last + 1):
        tracker.step(step)
        clock.now += STEP
    return tracker


def taken(out, run="run"):
    """Steps of each measure in the records."""
    found = gf.load_records(out).query("run == @run")
    return {name: sorted(set(rows["step"])) for name, rows in found.groupby("measure")}


@pytest.mark.parametrize("total", [600, None])
def test_the_cheap_at_every_due_step_and_the_expensive_as_the_share_allows(
    total, clock, tmp_path, caplog
):
    tracker = follow(clock, tmp_path, 0, 600, total_steps=total)
    tracker.close()
    everything = [step for step in range(601) if due(step, "log")] + [600]
    steps = taken(tmp_path)
    late = everything if total else [step for step in everything if step > 30]
    # Of a run of known length all but the step before its pace is known.
    assert set(late) - set(steps["rankme"]) <= {1} and steps["loss"][-1] == 600
    assert 2 <= len(steps["llc"]) <= 3 and steps["llc"][0] == 0
    assert tracker.overhead <= 0.05
    said = caplog.messages
    assert sum("at every due step for llc (1 s each)" in one for one in said) == (total == 600)
    assert f"llc {len(steps['llc'])} of 34, 1 s each" in said[-1] and "would pay for" in said[-1]
    told = json.loads((tmp_path / "settings.json").read_text())["tracking"]["run"]
    assert told["due"] == 34 and told["measured"] == len(set().union(*steps.values()))
    assert told["measures"]["llc"]["measured"] == len(steps["llc"])
    assert told["measures"]["llc"]["thinned_from"] <= told["measures"]["rankme"]["due"] == 34
    found = read(tmp_path)
    text = cadence(found.settings, "run", found.records)
    assert f"llc at {len(steps['llc'])} of 34" in text
    # A value of the run itself is recorded once of a step, whatever was measured when.
    assert not found.records.duplicated(["step", "task", "layer", "measure"]).any()


def test_a_resumed_run_measures_nothing_again(clock, tmp_path):
    follow(clock, tmp_path, 0, 300, total_steps=600).close()
    before = recorded(tmp_path / "records" / "run")
    parts = {part: part.read_bytes() for part in tmp_path.glob("records/run/*.parquet")}
    follow(clock, tmp_path, 200, 600, total_steps=600).close()
    after = recorded(tmp_path / "records" / "run")
    assert {step: after[step] for step in before} == before and len(after) > len(before)
    assert all(part.read_bytes() == content for part, content in parts.items())
    told = json.loads((tmp_path / "settings.json").read_text())["tracking"]["run"]
    assert told["due"] == 35  # with 300, where it was closed
    for name in ("loss", "rankme", "llc"):
        steps = [step for step, names in after.items() if name in names]
        assert told["measures"][name]["measured"] == len(steps)
        assert told["measures"][name]["due"] == 35


def test_what_is_left_pays_for_the_last_step(clock, tmp_path, monkeypatch):
    monkeypatch.setitem(SECONDS, "llc", 30.0)
    tracker = follow(clock, tmp_path, 0, 512, total_steps=4000)
    assert taken(tmp_path)["llc"] == [0]
    clock.now += 2000.0  # a last epoch of evaluation, which the plan did not know of
    tracker.close()
    assert taken(tmp_path)["llc"] == [0, 512] and taken(tmp_path)["rankme"][-1] == 512
    assert len(list(tmp_path.glob("records/run/step-00000512.*.parquet"))) == 2


def test_a_model_changed_after_its_last_step_is_not_mixed_with_it(clock, tmp_path, monkeypatch):
    monkeypatch.setitem(SECONDS, "llc", 30.0)
    model = net()
    tracker = follow(clock, tmp_path, 0, 512, model=model, total_steps=4000)
    model.head.bias.data.add_(1.0)
    clock.now += 2000.0
    tracker.close()
    assert taken(tmp_path)["llc"] == [0]


def test_a_folder_of_before_measures_were_counted_each(clock, tmp_path):
    follow(clock, tmp_path, 0, 16, max_overhead=None).close()
    path = tmp_path / "settings.json"
    content = json.loads(path.read_text())
    del content["tracking"]["run"]["measures"], content["seal"]
    write_sealed(path, content)
    follow(clock, tmp_path, 0, 32, max_overhead=None).close()
    told = json.loads(path.read_text())["tracking"]["run"]
    assert told["measures"]["llc"] == {"due": 17, "measured": 17, "thinned_from": None}
    assert told["due"] == told["measured"] == 17
