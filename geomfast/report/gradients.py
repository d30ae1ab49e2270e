"""Figure of the gradient ranks: over all parameters, and over the first ones only."""

from __future__ import annotations

from typing import Any

import pandas as pd

from geomfast.analysis.trajectories import in_order, select
from geomfast.analysis.truncation import FIRST, MEASURES
from geomfast.report.multiples import multiples, plain_numbers, samples_of
from geomfast.report.style import BLUE, ORANGE, head, need, styled

_NAMES: dict[str, str] = dict(zip(MEASURES, ("Fisher", "gradient covariance"), strict=True))
_COLOURS: dict[str, str] = dict(zip(MEASURES, (BLUE, ORANGE), strict=True))
_LINES: dict[str, Any] = {"": "-", FIRST: (0, (3, 2))}


@styled
def gradient_ranks(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Per task: Fisher and gradient-covariance rank by step, median over levels.

    None where neither was measured.
    """
    values = {
        (measure, suffix): in_order(select(run, measure + suffix))
        for measure in MEASURES
        for suffix in _LINES
    }
    values = {name: rows for name, rows in values.items() if not rows.empty}
    if not values:
        return None
    tasks = list(dict.fromkeys(task for rows in values.values() for task in rows["task"]))
    figure, panels = multiples(tasks, float(run["step"].max()), "effective rank")
    for task, axes in panels.items():
        for (measure, suffix), found in values.items():
            median = found[found["task"] == task].groupby("step")["value"].median()
            axes.plot(
                median.index, median, color=_COLOURS[measure], linestyle=_LINES[suffix],
                linewidth=1.6 if suffix == "" else 1.2,
            )  # fmt: skip
        axes.set_yscale("log")
        plain_numbers(axes)
    _legend(figure, list(values))
    samples = samples_of(pd.concat(values.values()))
    text = f"{run['run'].iloc[0]}; n = {samples} gradients per task-level; median over levels"
    head(figure, "How many dimensions the gradients use", text, 0.75)
    return figure


def _legend(figure: Any, drawn: list[tuple[str, str]]) -> None:
    Line2D = need("matplotlib.lines").Line2D
    handles = [
        Line2D(
            [], [], color=_COLOURS[measure], linestyle=_LINES[suffix],
            label=f"{_NAMES[measure]}, {'first 50,000 only' if suffix else 'all parameters'}",
        )
        for measure, suffix in drawn
    ]  # fmt: skip
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
