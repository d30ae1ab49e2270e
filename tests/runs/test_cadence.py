"""Measures at some of the checkpoints: at which, and what becomes of them when a run goes on."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from geomfast.estimators import hessian
from geomfast.files import read_sealed
from geomfast.records import load_records
from geomfast.runs.cadence import measurement_steps, merge_cadences
from geomfast.sweep.jobs import Job, missing, schedule
from geomfast.sweep.plan import Settings, run_specs
from tests.sweep.tiny import prepare_folder

SETTINGS = Settings("joint", ("COPY", "MOD"), (1,), 12, 8, None, "fp32", 6, 2, 14, 16)
STEPS = [0, 2, 4, 6, 7, 8, 9, 10, 11, 12]


def job(out: Path, **changes: Any) -> Job:
    (spec,) = run_specs(SETTINGS, ("nano",), (0,))
    one = Job(spec, SETTINGS, ("rankme", "hessian_top"), out, "cpu", threads=1)
    return dataclasses.replace(one, **{"cadence": {"hessian_top": 3}, **changes})


def steps_of(out: Path, measure: str) -> list[int]:
    frame = load_records(out)
    return sorted(frame[frame["measure"] == measure]["step"].unique().tolist())


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (2, [0, 12]),
        (3, [0, 7, 12]),
        (4, [0, 6, 9, 12]),
        (9, [0, 2, 4, 6, 7, 9, 10, 11, 12]),
        (10, STEPS),
        (99, STEPS),
        (None, STEPS),
    ],
)
def test_some_of_the_checkpoints_evenly_over_their_list(
    count: int | None, expected: list[int]
) -> None:
    assert measurement_steps(STEPS, count) == expected


def test_as_many_as_asked_for_with_the_first_and_the_last() -> None:
    for length in range(2, 60):
        steps = [step**2 for step in range(length)]
        for count in range(2, length + 1):
            found = measurement_steps(steps, count)
            assert len(found) == count and found == sorted(set(found))
            assert (found[0], found[-1]) == (steps[0], steps[-1]) and set(found) <= set(steps)


@pytest.mark.parametrize(("few", "many"), [(7, 13), (7, 25), (13, 25), (25, 97), (49, 97)])
def test_counts_that_divide_each_other_share_their_checkpoints(few: int, many: int) -> None:
    for length in range(many, 230):
        assert set(measurement_steps(range(length), few)) <= set(
            measurement_steps(range(length), many)
        )


def test_one_checkpoint_is_no_cadence() -> None:
    with pytest.raises(ValueError, match=r"2 checkpoints or more.*not 1"):
        measurement_steps(STEPS, 1)


def test_a_grown_cadence_is_the_larger_of_each_measure() -> None:
    before = {"llc": 7, "fisher_rank": 25}
    asked = {"llc": 13, "fisher_rank": 5}
    both = ["llc", "fisher_rank"]
    assert merge_cadences(before, both, asked, both) == {"llc": 13, "fisher_rank": 25}
    # A measure without a count is taken at every checkpoint, and stays so.
    assert merge_cadences({"fisher_rank": 25}, both, asked, both) == {"fisher_rank": 25}
    assert merge_cadences(before, both, {"fisher_rank": 5}, both) == {"fisher_rank": 25}
    # A count of one call says nothing of a measure that it does not take.
    assert merge_cadences(before, ["llc"], asked, ["fisher_rank"]) == {"llc": 7, "fisher_rank": 5}


def test_a_folder_notes_the_cadence_and_takes_the_larger(tmp_path: Path) -> None:
    def ask(cadence: dict[str, int] | None, *measures: str) -> dict[str, int]:
        grid: dict[str, Any] = {"scales": ["nano"], "seeds": [0], "measures": list(measures)}
        prepare_folder(tmp_path, SETTINGS, grid | ({"cadence": cadence} if cadence else {}), {})
        return json.loads((tmp_path / "settings.json").read_text())["grid"]["cadence"]

    assert ask({"llc": 5}, "llc") == {"llc": 5}
    assert ask({"llc": 3, "hessian_top": 4}, "llc", "hessian_top") == {"llc": 5, "hessian_top": 4}
    assert ask({"llc": 9}, "llc") == {"llc": 9, "hessian_top": 4}
    assert ask(None, "hessian_top") == {"llc": 9}
    path = tmp_path / "settings.json"
    old = read_sealed(path)
    del old["grid"]["cadence"]  # from before measures had one: taken at every checkpoint
    path.write_text(json.dumps(old))
    assert ask({"llc": 3, "fisher_rank": 3}, "llc", "fisher_rank") == {"fisher_rank": 3}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight")
    assert schedule(SETTINGS) == STEPS
    assert job(out).run()
    return out


def test_a_measure_is_taken_at_its_own_checkpoints(straight: Path) -> None:
    assert steps_of(straight, "hessian_top") == [0, 7, 12]
    assert steps_of(straight, "rankme") == steps_of(straight, "accuracy") == STEPS
    assert missing(job(straight)) == {}


def test_stopping_and_resuming_keeps_to_the_cadence(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches too: each starts from where the last one ended, however many checkpoints ago."""
    starts: list[torch.Tensor | None] = []
    ends: list[torch.Tensor] = []
    search = hessian.hessian_top_eigenvalues

    def spy(*arguments: Any, start: torch.Tensor | None, **options: Any) -> Any:
        found = search(*arguments, start=start, **options)
        starts.append(start)
        ends.append(found.vectors)
        return found

    monkeypatch.setattr(hessian, "hessian_top_eigenvalues", spy)
    asked = itertools.count(1)
    calls = 0
    while not job(tmp_path).run(stop=lambda: next(asked) % 3 == 0):
        calls += 1
    assert calls == 5  # at steps 2, 4, 6, 8 and 10
    columns = load_records(straight).columns.drop("seconds")
    pd.testing.assert_frame_equal(load_records(tmp_path)[columns], load_records(straight)[columns])
    assert len(starts) == 3 * 2 and starts[:2] == [None, None]
    for start, end in zip(starts[2:], ends, strict=False):
        assert start is not None and torch.equal(start, end)


def test_more_checkpoints_of_a_measure_add_work_and_fewer_none(tmp_path: Path) -> None:
    ranks = {"measures": ("rankme",)}
    assert job(tmp_path, **ranks, cadence={"rankme": 3}).run()
    few = load_records(tmp_path)
    assert missing(job(tmp_path, **ranks, cadence={"rankme": 2})) == {}
    more = job(tmp_path, **ranks, cadence={"rankme": 4})
    assert missing(more) == {6: {"rankme"}, 9: {"rankme"}}
    assert more.run()
    frame = load_records(tmp_path)
    assert steps_of(tmp_path, "rankme") == [0, 6, 7, 9, 12]
    assert (frame.groupby("step")["weights"].nunique() == 1).all()
    assert not frame.duplicated(["step", "task", "layer", "measure"]).any()
    assert len(frame.merge(few)) == len(few)  # what was recorded before is there as it was
