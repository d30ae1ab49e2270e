"""Two sweeps beside each other."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from geomfast.report import build, compare
from geomfast.report.data import read
from geomfast.report.figures import COMPARED
from tests.analysis.synthetic import sweep, write
from tests.report.looks import cut_off, overlapping, texts

pytestmark = pytest.mark.usefixtures("few_claims")

GRID: dict[str, Any] = {"tasks": ["ADD", "MUL", "MOD"], "levels": [1, 3]}


@pytest.fixture(scope="module")
def outs(tmp_path_factory):
    """A sweep of two seeds, and one of another seed whose floors are higher, both called *run*."""
    folder = tmp_path_factory.mktemp("both")
    ours = pd.concat([sweep(seed=seed, **GRID) for seed in (0, 1)], ignore_index=True)
    other = sweep(seed=2, **GRID | {"tasks": ["MUL", "MOD"]})
    other["value"] *= np.where(other["measure"] == "rankme", 1.5, 1.0)
    return (
        write(folder / "a" / "run", ours, settings={"steps": 300}),
        write(folder / "b" / "run", other, settings={"steps": 600}),
    )


@pytest.fixture(scope="module")
def both(outs, few_claims):
    ours, other = map(read, outs)
    return ours.renamed("first"), other.renamed("second")


def test_task_levels_side_by_side(both):
    table = compare.side_by_side(*both).set_index(["task", "level"])
    assert list(table.index) == [(t, v) for t in GRID["tasks"] for v in (1, 3)]
    assert table["runs"].tolist() == [2] * 6
    row = table.loc[("MOD", 1)]
    assert row["floor"] == pytest.approx(2.0, abs=0.1)
    assert row["other_floor"] == pytest.approx(1.5 * row["floor"], rel=0.05)
    assert np.isnan(table.loc[("ADD", 1), "other_floor"])
    assert np.isnan(table.loc[("MUL", 3), "emerged_step"])


def test_claims_of_both(both):
    table = compare.claims_table(*both).set_index("name")
    assert table.loc["mod_floor", "value"] == pytest.approx(2.0, abs=0.1)
    assert table.loc["mod_floor", "other_value"] == pytest.approx(3.0, abs=0.15)
    assert not table.loc["mod_floor", "same_verdict"]
    assert table.loc["collapsed", "same_verdict"]


def test_scales_that_are_not_in_both(both):
    ours, other = both
    cells = other.cells.assign(scale="micro")
    micro = replace(other, cells=cells)
    assert compare.scale_pairs(*both) == [("nano", "nano")]
    assert compare.scale_pairs(ours, micro) == [("nano", "micro")]


@pytest.mark.parametrize("picture", COMPARED, ids=lambda picture: picture.name)
def test_figures_of_both(picture, both):
    figure = picture.draw(*both, ("nano", "nano"))
    assert cut_off(figure) == [] and overlapping(figure) == []
    words = " | ".join(text for text, _ in texts(figure))
    assert "2 runs (1 scale, 2 seeds) against 1 run (1 scale, 1 seed)" in words
    assert "first" in words and "second" in words
    # Only tasks that both have are drawn over each other.
    assert ("ADD-1" in words) == (picture.name == "events")


def test_the_report_of_both(outs, only):
    only("events")
    ours, other = outs
    result = build(ours, compare_with=other)
    assert result["name"] == str(ours)  # both folders are called the same
    compared = result["compare"]
    assert compared["name"] == str(other)
    assert compared["settings"] == [{"name": "settings.steps", "ours": "300", "other": "600"}]
    assert len(compared["claims"]) == len(result["claims"])
    assert (ours / "figures" / "compare-events-nano.svg").exists()
    names = {"compare_claims.csv", "compare_cells.csv"}
    assert names <= {path.name for path in (ours / "tables").iterdir()}
    html = (ours / "report.html").read_text()
    claims = html[html.index('<table class="claims">') : html.index("</table>")]
    assert claims.count("<tr id=") == len(result["claims"])
    assert claims.count('<span class="verdict') == 2 * len(result["claims"])
    assert "verdicts differ" in claims
    assert "<td>settings.steps</td>" in html
    assert json.loads((ours / "report.json").read_text())["compare"] == compared
