"""Shares of wall time: from made-up records with known sums, and of a real run."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from geomfast.measures import measures
from geomfast.measures.catalog import part_of
from geomfast.records import SCHEMA, load_records, part_name, write_part
from geomfast.runs.timing import read_seconds, wall_time, write_seconds
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import Settings, run_specs

SETTINGS = Settings("joint", ("COPY",), (1,), 6, 8, None, "fp32", 2, 2, 4, 16)


def record(folder: Path, step: int, seconds: dict[str, float]) -> None:
    """A part with values that took so long, by the name of the value."""
    like = {
        name: {"string": "x", "int64": 0}.get(str(SCHEMA.field(name).type), 0.0)
        for name in SCHEMA.names
    }
    like |= {"run": folder.name, "layer": "", "step": step}
    rows: list[dict[str, Any]] = [
        {**like, "measure": name, "seconds": value} for name, value in seconds.items()
    ]
    write_part(folder / part_name(step, {part_of(name) for name in seconds}), rows)


@pytest.mark.parametrize("measure", measures())
def test_values_belong_to_their_measure(measure: str) -> None:
    assert part_of(measure) == part_of(f"{measure}_something") == measure


def test_behaviour_is_what_no_measure_is_named_for() -> None:
    assert {part_of(name) for name in ("accuracy", "answer_logprob")} == {"behaviour"}


def test_seconds_are_summed_by_run_and_measure(tmp_path: Path) -> None:
    one, two = tmp_path / "records" / "one", tmp_path / "records" / "two"
    record(one, 0, {"accuracy": 1.0, "answer_logprob": 1.0, "llc": 3.0, "llc_rhat": 2.0})
    record(one, 2, {"accuracy": 1.0, "rankme": 1.0})
    record(two, 0, {"accuracy": 4.0})
    write_seconds(one, {"train": 10.0, "measure": 9.0, "write": 1.0})
    table = wall_time(tmp_path).set_index(["run", "part"])
    assert table.loc["one"]["seconds"].to_dict() == {
        "training": 10.0,
        "writing": 1.0,
        "behaviour": 3.0,
        "llc": 5.0,
        "rankme": 1.0,
    }
    assert table.loc["one"]["checkpoints"].to_dict() == {
        "training": 0,
        "writing": 0,
        "behaviour": 2,
        "llc": 1,
        "rankme": 1,
    }
    assert table.loc[("one", "llc"), "share"] == pytest.approx(5.0 / 20.0)
    # Of this one only the records are there.
    assert table.loc["two"].reset_index().to_dict("records") == [
        {"part": "behaviour", "seconds": 4.0, "checkpoints": 1, "share": 1.0}
    ]
    alone = wall_time(one).set_index("part")["seconds"]
    assert alone.to_dict() == table.loc["one"]["seconds"].to_dict()


def test_without_records_there_is_nothing_to_share(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no records"):
        wall_time(tmp_path)


def test_a_run_notes_its_seconds_through_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves a second with every look at it."""
    (spec,) = run_specs(SETTINGS, ("nano",), (0,))
    job = Job(spec, SETTINGS, ("rankme",), tmp_path / "straight", "cpu", threads=1, state_every=0.0)

    def noted(one: Job, stop_at: int) -> dict[str, float]:
        ticks, asked = itertools.count(), itertools.count(1)
        monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
        while not one.run(stop=lambda: next(asked) == stop_at):
            pass
        return dict(wall_time(one.out).set_index("part")["seconds"])

    straight = noted(job, stop_at=0)
    assert set(straight) == {"training", "writing", "behaviour", "rankme"}
    assert straight["training"] == len(load_records(job.out)["step"].unique()) == 6
    assert straight["writing"] == 11  # a part at each of six checkpoints, a state at five
    stopped = noted(dataclasses.replace(job, out=tmp_path / "stopped"), stop_at=4)
    assert stopped["rankme"] == straight["rankme"]
    assert stopped["training"] >= straight["training"]


def test_a_pass_that_ends_earlier_takes_nothing_away(tmp_path: Path) -> None:
    write_seconds(tmp_path, {"train": 400.0, "write": 3.0})
    write_seconds(tmp_path, {"train": 0.1, "write": 4.0})  # to measure step 0 once more
    assert read_seconds(tmp_path) == {"training": 400.0, "writing": 4.0}
    (tmp_path / "wall.json").write_text("{")
    write_seconds(tmp_path, {"train": 1.0, "write": 0.0})
    assert read_seconds(tmp_path)["training"] == 1.0
