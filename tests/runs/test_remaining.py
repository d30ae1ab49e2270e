"""The time left, learned from events and from records."""

from pathlib import Path

import pytest

from geomfast import machine
from geomfast.records import part_name, write_part
from geomfast.runs.executors.events import Event
from geomfast.runs.remaining import Piece, Rate, Remaining, recorded_rates
from geomfast.runs.timing import write_seconds
from tests.test_records import row

LACKING = {0: {"rankme"}, 10: {"rankme", "llc"}, 20: {"rankme", "llc"}}


def hear(remaining: Remaining, *events: tuple[float, int, str]) -> None:
    remaining.hear(Event("a", "started"), now=0.0)
    for now, step, doing in events:
        remaining.hear(Event("a", "progress", step, doing=doing), now)


def test_unknown_until_every_activity_was_seen_once() -> None:
    remaining = Remaining([Piece("a", "nano", LACKING)], workers=1)
    hear(remaining, (1.0, 0, "rankme"), (2.0, 0, "training"), (7.0, 10, "rankme"), (8.0, 10, "llc"))
    assert remaining.seconds(now=9.0) is None
    remaining.hear(Event("a", "progress", 10, doing="training"), now=18.0)
    # 10 steps of 0.5 s, 1 s of rankme, 10 s of llc.
    assert remaining.seconds(now=18.0) == pytest.approx(16.0)
    assert remaining.seconds(now=20.0) == pytest.approx(14.0)


def test_records_make_it_known_from_the_start_and_workers_share_it() -> None:
    rates = {("nano", "training"): Rate(5.0, 10), ("nano", "rankme"): Rate(2.0, 2)}
    rates |= {("nano", "llc"): Rate(30.0, 3)}
    pieces = [Piece(name, "nano", LACKING) for name in "ab"]
    whole = 20 * 0.5 + 3 * 1.0 + 2 * 10.0
    assert Remaining(pieces, 1, rates).seconds() == pytest.approx(2 * whole)
    assert Remaining(pieces, 2, rates).seconds() == pytest.approx(whole)
    assert Remaining([Piece("a", "nano", LACKING, members=3)], 1, rates).seconds() == pytest.approx(
        3 * whole
    )


def test_what_has_ended_takes_no_more_time() -> None:
    remaining = Remaining([Piece("a", "nano", LACKING)], workers=1)
    remaining.hear(Event("a", "stopped", 10), now=1.0)
    assert remaining.seconds() == 0.0


def test_rates_of_records_are_those_of_this_machine_and_device(tmp_path: Path) -> None:
    folder = tmp_path / "records" / "a"
    for step in (0, 10):
        rows = [{**row(run="a", step=step), "scale": "nano", "seconds": 3.0, "device": "cpu"}]
        write_part(folder / part_name(step, {"rankme"}), rows)
    write_seconds(folder, {"train": 5.0, "write": 0.0})
    here = [{"machine": machine.describe()}]
    rates = recorded_rates(tmp_path, here, "cpu")
    each = {name: rate.seconds / rate.count for (_, name), rate in rates.items()}
    assert each == {"rankme": pytest.approx(3.0), "training": pytest.approx(0.5)}
    assert recorded_rates(tmp_path, here, "cuda") == {}
    assert recorded_rates(tmp_path, [*here, {"machine": "another"}], "cpu") == {}
    assert recorded_rates(tmp_path / "nothing", here, "cpu") == {}
