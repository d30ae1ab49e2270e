"""What is left of a population and what it takes: counted, and against a real group."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from geomfast.population import estimate as module
from geomfast.population.estimate import (
    Pace,
    estimate,
    footprint,
    memory_bytes,
    pace_of,
    planned,
    recorded_pace,
    timed_pace,
)
from geomfast.population.job import missing
from geomfast.population.plan import PopulationSettings, scale_of, schedule
from geomfast.population.running import GroupJob
from geomfast.runs.estimate import DISK, HASHING, SYNC
from geomfast.runs.executors.engine import Engine
from geomfast.runs.groups import Group
from geomfast.runs.timing import wall_time, write_seconds

SETTINGS = PopulationSettings("count", 3, (5,), 12, 6, None, 10, 11)
GROUP = Group("count-1x16-seeds0-2", "1x16", (0, 1, 2), 3)
ENGINE = Engine("local", "cpu", ("cpu",), 1, 1)
PACE = Pace(1.0, {"behaviour": 10.0, "rankme": 100.0}, timed=True)


def job(out: Path, group: Group = GROUP, **changes: Any) -> GroupJob:
    of_job = {name: changes.pop(name) for name in ("cadence", "state_every") if name in changes}
    return GroupJob(group, dataclasses.replace(SETTINGS, **changes), out, "cpu", 1, **of_job)


def test_everything_left_is_counted_by_member_step_and_checkpoint(tmp_path: Path) -> None:
    one = job(tmp_path, cadence={"rankme": 2}, state_every=1e9)
    found = estimate(one, missing(one), PACE)
    count = len(schedule(SETTINGS))
    assert (found.checkpoints, found.of, found.steps) == (count, count, 12)
    parts = dict(found.seconds)
    state = 12 * 3 * scale_of(SETTINGS, "1x16").parameters
    files = SYNC * (4 + 2 * count)
    assert parts.pop("writing") == pytest.approx(state / DISK + count * state / 3 / HASHING + files)
    assert parts == {"training": 36.0, "behaviour": 30.0 * count, "rankme": 600.0}
    often = dataclasses.replace(one, state_every=0.0)
    more = estimate(often, missing(often), PACE)
    assert more.seconds["writing"] > found.seconds["writing"] and more.disk > found.disk
    assert not list(tmp_path.iterdir())


def test_what_is_done_takes_nothing_and_what_was_stopped_the_rest(tmp_path: Path) -> None:
    one = job(tmp_path, state_every=0.0)
    asked = iter([False] * 5 + [True])
    assert footprint(one) == memory_bytes(one) > 1 << 28
    assert not one.run(stop=lambda: next(asked))
    left = missing(one)
    found = estimate(one, left, PACE)
    assert 0 < found.checkpoints < found.of and found.steps == 12 - (min(left) - 1)
    assert one.run() and footprint(one) == 0
    plan = planned(tmp_path, [one], ENGINE)
    assert plan["runs"][0]["checkpoints_left"] == plan["total"]["total_seconds"] == 0
    assert plan["pace"] == {} and plan["remarks"] == []


def test_records_say_how_long_others_of_the_scale_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path)
    assert recorded_pace([one]) is None
    assert one.run()
    write_seconds(one.records, {"train": 72.0, "write": 1.0})
    pace = recorded_pace([one])
    assert pace is not None and pace.step == 72.0 / 12 / 3 and not pace.timed
    table = wall_time(one.records).groupby("part")["seconds"].sum()
    values = 3 * len(schedule(SETTINGS))
    assert pace.measures == pytest.approx({n: table[n] / values for n in ("behaviour", "rankme")})
    # Times of another device say nothing.
    assert recorded_pace([dataclasses.replace(one, device="cuda")]) is None
    more = job(tmp_path, Group("count-1x16-seeds3-4", "1x16", (3, 4), 2))
    plan = planned(tmp_path, [one, more], ENGINE)
    assert [row["seconds"].get("training") for row in plan["runs"]] == [None, 48.0]
    (said,) = plan["remarks"]
    assert said.startswith("Time of 1x16: as groups of the scale took so far")
    # What no record tells is timed, and the rest stays as recorded.
    monkeypatch.setattr(module, "timed_pace", lambda job: Pace(9.0, {"new": 4.0}, timed=True))
    monkeypatch.setattr(module, "missing", lambda job: {0: {"new", "rankme"}})
    both = pace_of(more, [one, more])
    assert (both.step, both.measures["new"], both.timed) == (2.0, 4.0, True)


def test_a_real_group_takes_about_what_was_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the processor's clock, which stands still while others use it."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    one = job(tmp_path, steps=60, samples=60, state_every=0.0)
    pace = timed_pace(one)
    found = estimate(one, missing(one), pace)
    assert one.run()
    real = wall_time(one.records).groupby("part")["seconds"].sum()
    assert set(found.seconds) == set(real.index)
    ratios = {name: found.seconds[name] / real[name] for name in real.index if name != "writing"}
    assert all(1 / 5 < ratio < 5 for ratio in ratios.values()), ratios
    whole = sum(real[name] for name in ratios)
    assert 1 / 3 < sum(found.seconds[name] for name in ratios) / whole < 3, ratios
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 1 / 2 < found.disk / on_disk < 2
