"""Local learning coefficients along a run, and which of them to doubt."""

import math
from typing import Any

import pandas as pd
import pytest

from geomfast.analysis import llc, llc_summary, llc_values
from geomfast.analysis.llc import beyond_doubt
from tests.analysis.synthetic import join, rows

STEPS = [0, 10, 20]
NAN = math.nan


def measured(values: list[float], *, stderr: float = 0.1, **beside: Any) -> pd.DataFrame:
    """A coefficient with its diagnostics; good ones unless given, one number or one a step."""
    cell = {key: beside.pop(key) for key in ("task", "level", "seed") if key in beside}
    lost = [float(math.isnan(value)) for value in values]
    good = {"diverged": lost, "rhat": 1.0, "ess": 100.0, "step_bias": 0.0, "acceptance": 0.5}
    frames = [rows("llc", STEPS, values, **cell).assign(stderr=stderr)]
    for name, column in {"effect": "localization_effect", "degree": "degree"}.items():
        if more := beside.pop(name, None):
            frames.append(rows(f"llc_{column}", STEPS, more, **cell).assign(stderr=0.1))
    for name, value in (good | beside).items():
        each = value if isinstance(value, list) else [value] * len(STEPS)
        frames.append(rows(f"llc_{name}", STEPS, each, **cell))
    return join(*frames)


@pytest.mark.parametrize(
    ("values", "beside", "doubts"),
    [
        ([5, 6, 7], {}, ["", "", ""]),
        ([5, NAN, 7], {}, ["", "diverged", ""]),
        ([5, 6, 7], {"diverged": [0, 0, 1]}, ["", "", "diverged"]),
        ([-5, -0.1, 0.1], {}, ["still training", "", ""]),
        ([5, 6, 7], {"step_bias": [0.4, 0.7, 0.5]}, ["", "step too large", ""]),
        ([5, 0.1, 7], {"step_bias": [0.0, 0.05, NAN]}, ["", "", ""]),
        ([5, 6, 7], {"rhat": [1.05, 1.2, NAN]}, ["", "too few draws", "too few draws"]),
        ([5, 6, 7], {"ess": [31, 29, 100]}, ["", "too few draws", ""]),
        ([5, 6, 7], {"localization_least": [0.4, 0.6, NAN]}, ["", "bound by localization", ""]),
        ([5, 6, 7], {"effect": [0.19, 0.4, NAN]}, ["", "bound by localization", ""]),
        ([5, 6, 7], {"degree": [0.85, 0.75, NAN]}, ["", "localization too weak", ""]),
        (
            [5, 6, 7],
            {"effect": [-0.3, 0.4, 0], "ess": [99, 19, 99]},
            [
                "localization too strong",
                "too few draws",
                "",
            ],
        ),
    ],
)
def test_doubts(values: list[float], beside: dict[str, Any], doubts: list[str]) -> None:
    found = llc_values(measured(values, **beside))
    assert found["step"].tolist() == STEPS
    assert found["doubt"].tolist() == doubts


def test_first_largest_and_last_of_task_levels_and_the_mixture() -> None:
    frame = join(
        measured([5, 9, NAN], rhat=[1.0, 1.3, NAN]),
        measured([NAN, NAN, NAN], task="MOD"),
        measured([-1, 20, 12], task="", level=0),
    )
    table = llc(frame)
    assert table["task"].tolist() == ["COPY", "MOD", ""]
    copy, lost, whole = table.to_dict("records")
    assert (copy["initial"], copy["largest"], copy["largest_step"]) == (5.0, 9.0, 10)
    assert (copy["final"], copy["checkpoints"]) == (9.0, 2)
    assert (copy["doubtful"], copy["diverged"]) == (2, 1)
    assert (lost["checkpoints"], lost["diverged"]) == (0, 3) and math.isnan(lost["final"])
    assert (whole["final"], whole["stderr"], whole["doubtful"]) == (12.0, 0.1, 1)
    summary = llc_summary(frame)
    assert summary["mixture"]["final"] == 12.0 and summary["mixture"]["n"] == 1
    assert summary["values"] == 9 and summary["bounds"] == 0
    assert summary["doubts"] == {
        "diverged": 4,
        "still training": 1,
        "step too large": 0,
        "localization too weak": 0,
        "too few draws": 1,
        "localization too strong": 0,
    }


def test_none_measured() -> None:
    frame = rows("rankme", STEPS, [1, 2, 3], layer="final")
    assert llc(frame).empty and llc_values(frame).empty and llc_summary(frame) == {}


def test_lower_bounds_are_counted_apart_and_stay() -> None:
    frame = measured([5, 6, 7], effect=[0.0, 0.4, -0.4])
    summary = llc_summary(frame)
    assert summary["bounds"] == 1 and sum(summary["doubts"].values()) == 1
    left = beyond_doubt(frame)
    assert left.loc[left["measure"] == "llc", "step"].tolist() == STEPS[:2]
    assert llc(frame)["doubtful"].tolist() == [1]


def test_an_effect_that_is_not_known_is_no_doubt() -> None:
    frame = measured([5, 6, 7], effect=[-65.0, 40.0, 0.7])
    wide = frame["measure"] == "llc_localization_effect"
    frame.loc[wide, "stderr"] = [20.0, 10.0, 0.6]
    assert llc_values(frame)["doubt"].tolist() == ["", "", ""]
