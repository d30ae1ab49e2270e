"""Local learning coefficients along a run, and which of them to doubt."""

import math
from typing import Any

import pandas as pd
import pytest

from geomfast.analysis import llc, llc_summary, llc_values
from tests.analysis.synthetic import join, rows

STEPS = [0, 10, 20]
NAN = math.nan


def measured(values: list[float], *, stderr: float = 0.1, **beside: Any) -> pd.DataFrame:
    """A coefficient with its diagnostics; good ones unless given, one number or one a step."""
    cell = {key: beside.pop(key) for key in ("task", "level", "seed") if key in beside}
    lost = [float(math.isnan(value)) for value in values]
    good = {"diverged": lost, "rhat": 1.0, "ess": 100.0, "step_bias": 0.0, "acceptance": 0.5}
    effect = beside.pop("effect", None)
    frames = [rows("llc", STEPS, values, **cell).assign(stderr=stderr)]
    if effect:
        frames.append(rows("llc_localization_effect", STEPS, effect, **cell).assign(stderr=0.1))
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
        ([5, 6, 7], {"localization_least": [0.4, 0.6, NAN]}, ["", "localization too strong", ""]),
        ([5, 6, 7], {"effect": [0.19, 0.4, NAN]}, ["", "localization too strong", ""]),
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
    assert summary["values"] == 9
    assert summary["doubts"] == {
        "diverged": 4,
        "still training": 1,
        "step too large": 0,
        "too few draws": 1,
        "localization too strong": 0,
    }


def test_none_measured() -> None:
    frame = rows("rankme", STEPS, [1, 2, 3], layer="final")
    assert llc(frame).empty and llc_values(frame).empty and llc_summary(frame) == {}
