"""What the search for top eigenvectors shows in a sweep, and what the next checkpoint has of it."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from geomfast.records import load_records
from geomfast.series.sweeps import of_sweep
from geomfast.sweep import eigenvectors
from geomfast.sweep.eigenvectors import Eigenvectors, of_measure
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import rate_at, run_specs
from tests.sweep.tiny import prepare_folder, tiny

SETTINGS = tiny(steps=4, dense_until=4, checkpoints=3, samples=8)
ALL = ("hessian_top", "hessian_subspace", "hessian_edge")
OTHERS = {"hessian_subspace_gradient", "hessian_subspace_overlap", "hessian_edge"}


def records(out: Path, *measures: str) -> pd.DataFrame:
    (one,) = run_specs(SETTINGS, ("nano",), (0,))
    assert Job(one, SETTINGS, measures, out, "cpu", threads=1).run()
    return load_records(out)


def test_values_over_checkpoints_and_hessian_top_as_without_them(tmp_path: Path) -> None:
    frame, alone = records(tmp_path / "all", *ALL), records(tmp_path / "alone", "hessian_top")
    columns = ["step", "task", "measure", "value", "stderr", "settings", "weights"]
    same = frame[~frame["measure"].isin(OTHERS)][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, alone[columns])
    (spec,) = run_specs(SETTINGS, ("nano",), (0,))
    table = frame.pivot_table("value", ["step", "task"], "measure", dropna=False)
    assert set(table.index.get_level_values("step")) == {0, 2, 4}
    for (step, task), row in table.iterrows():
        assert row["hessian_edge"] == rate_at(step, SETTINGS, spec) * row["hessian_top"]
        assert 0.0 < row["hessian_subspace_gradient"] <= 1.0, task
        known = 0.0 <= row["hessian_subspace_overlap"] <= 1.0
        assert known == (step > 0)
    assert frame[frame["measure"] == "hessian_edge"]["settings"].nunique() == 1


def test_rates_are_those_of_training() -> None:
    (spec,) = run_specs(dataclasses.replace(SETTINGS, learning_rate=1e-2), ("nano",), (0,))
    settings = dataclasses.replace(SETTINGS, learning_rate=1e-2)
    assert rate_at(0, settings, spec) == pytest.approx(1e-2 / 100)  # of 100 steps of warm-up
    assert rate_at(2, settings, spec) == pytest.approx(3e-2 / 100)


def kept(folder: Path, step: int, **vectors: torch.Tensor) -> Eigenvectors:
    one = Eigenvectors(folder, step)
    for name, x in vectors.items():
        level, _, measure = name.partition("__")
        one.keep(of_measure(level, measure), x)
    one.save()
    return Eigenvectors(folder, step + 1)


def test_what_one_measure_keeps_survives_checkpoints_without_it(tmp_path: Path) -> None:
    a, b, c = (torch.full((1, 3), x) for x in (1.0, 2.0, 3.0))
    of = of_measure("copy", "hessian_subspace")
    before = kept(tmp_path, 0, copy=a, copy__hessian_subspace=b).before
    assert torch.equal(before["copy"], a) and torch.equal(before[of], b)
    before = kept(tmp_path, 1, copy=c).before
    assert torch.equal(before["copy"], c) and torch.equal(before[of], b)
    # And the other way round.
    before = kept(tmp_path, 2, copy__hessian_subspace=a).before
    assert torch.equal(before["copy"], c) and torch.equal(before[of], a)


def test_what_is_too_large_beside_is_left_out_alone(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(eigenvectors, "LARGEST_FILE", 12)
    one, wide = torch.ones(1, 3), torch.ones(2, 3)
    before = kept(tmp_path, 0, copy=one, copy__hessian_subspace=wide).before
    assert set(before) == {"copy"}
    before = kept(tmp_path, 2, copy=wide, copy__hessian_subspace=one).before
    assert set(before) == {"copy", of_measure("copy", "hessian_subspace")}
    assert torch.equal(before["copy"], one)  # that of before, as without what is beside it


def test_kept_checkpoints_have_the_rate_of_their_step(tmp_path: Path) -> None:
    grid = {"scales": ["nano"], "seeds": [0], "measures": ["hessian_edge"]}
    prepare_folder(tmp_path, SETTINGS, grid, {"command": "geomfast sweep out"})
    (spec,) = run_specs(SETTINGS, ("nano",), (0,))
    assert Job(spec, SETTINGS, ("hessian_edge",), tmp_path, "cpu", threads=1, keep="all").run()
    frame = load_records(tmp_path)
    (series,) = of_sweep(tmp_path, None)
    checkpoint = next(one for one in series.checkpoints if one.step == 2)
    rows = series.open(checkpoint, series.fetch(checkpoint), "cpu").take({"hessian_edge"})
    there = frame[(frame["measure"] == "hessian_edge") & (frame["step"] == 2)]
    for row in rows:
        (same,) = there.loc[there["task"] == row["task"], "value"]
        assert row["value"] == pytest.approx(same, rel=2e-3)
