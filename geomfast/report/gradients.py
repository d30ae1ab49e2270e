"""Figure of the gradient ranks: over all parameters, and over the first ones only."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from geomfast.analysis.trajectories import in_order, select
from geomfast.analysis.truncation import FIRST, MEASURES
from geomfast.report.style import BLUE, ORANGE, canvas, head, need, step_axis, styled

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
    columns = min(4, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure, grid = canvas(
        max(3.1 * columns + 1.2, 9.0), 2.1 * rows + 1.9, rows, columns, left=0.75, right=0.3,
        top=1.05, bottom=0.95, wspace=0.16, hspace=0.42, sharey=True,
    )  # fmt: skip
    last = float(run["step"].max())
    for index, axes in enumerate(grid.flat):
        if index >= len(tasks):
            axes.set_axis_off()
            continue
        for (measure, suffix), found in values.items():
            median = found[found["task"] == tasks[index]].groupby("step")["value"].median()
            axes.plot(
                median.index, median, color=_COLOURS[measure], linestyle=_LINES[suffix],
                linewidth=1.6 if suffix == "" else 1.2,
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_title(tasks[index], loc="left")
        step_axis(axes, last)
        axes.spines["right"].set_visible(False)
        if index % columns == 0:
            axes.set_ylabel("effective rank")
        if index + columns >= len(tasks):
            axes.set_xlabel("training step (log)")
    for axes in grid.flat[: len(tasks)]:
        formatter = need("matplotlib.ticker").FuncFormatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(formatter)
        axes.yaxis.set_minor_formatter(need("matplotlib.ticker").NullFormatter())
    _legend(figure, list(values))
    n = sorted({int(v) for found in values.values() for v in found["n"].dropna()})
    samples = ", ".join(str(v) for v in n)
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
