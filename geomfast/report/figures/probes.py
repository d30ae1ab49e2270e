"""Figure of the steps from which linear probes and the model have the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.probes import MEASURE, START
from geomfast.report.axes import STEPS
from geomfast.report.colours import BLUE, GREY, ORANGE, SKY, SOFT, VERMILLION
from geomfast.report.curves import runs_text, samples_of
from geomfast.report.data import ReportData
from geomfast.report.figures.dots import ROW, by_task, strip, task_rows
from geomfast.report.style import canvas, handle, head, legend, styled


@styled
def probe_before_behaviour(found: ReportData) -> Any:
    """The steps from which the first layer's probe and the model have the answer, by task-level.

    None where no probe was taken.
    """
    table = found.probes
    if table.empty:
        return None
    scales, last = list(dict.fromkeys(table["scale"])), float(found.records["step"].max())
    table = by_task(table)
    count = len(table[["task", "level"]].drop_duplicates())
    shown = [name for name in _LOOKS if table[name].notna().any() or name == "probed"]
    figure, grid = canvas(
        max(2.6 * len(scales) + 1.1, 8.4), ROW * count + 2.2, 1, len(scales), left=0.75, right=0.35,
        top=1.15, bottom=1.0, wspace=0.06,
    )  # fmt: skip
    for index, (scale, axes) in enumerate(zip(scales, grid[0], strict=True)):
        rows = task_rows(axes, table, named=index == 0)
        beyond = strip(axes, last)
        for y, (task, level) in enumerate(rows):
            cell = table[(table["task"] == task) & (table["level"] == level)]
            _steps(axes, y, cell[cell["scale"] == scale], shown, beyond)
        axes.set_title(scale, loc="left")
        axes.set_xlabel(STEPS)
    _legend(figure, shown, several=bool(table.duplicated(["scale", "task", "level"]).any()))
    samples = samples_of(found.records[found.records["measure"] == MEASURE])
    text = f"{runs_text(found.cells)}; n = {samples} samples per probe; of the earliest layer"
    head(figure, "Linear probes before behaviour", text, 0.75)
    return figure


def _steps(axes: Any, y: int, rows: pd.DataFrame, shown: list[str], beyond: float) -> None:
    """Draw medians over seeds of all steps, with a line from the probe to the answer.

    Runs whose untrained network already shows the first token have the whole answer alone, as the
    probe had nothing to learn.
    """
    if rows.empty:
        return
    learned = rows[rows["outcome"] != START]
    steps = {name: (rows if name == "emerged" else learned)[name].fillna(np.inf) for name in shown}
    steps = {name: values for name, values in steps.items() if len(values)}
    middle = {name: min(float(np.median(values)), beyond) for name, values in steps.items()}
    if "probed" in middle:
        # A model without the answer has no step that the probe could precede.
        model = [middle[name] for name in middle if name != "probed"]
        first = middle["probed"] < min([*model, beyond])
        ends = [min(middle.values()), max(middle.values())]
        axes.plot(ends, [y, y], color=SKY if first else "#f0b48a", linewidth=2.6, zorder=1)
    else:
        axes.annotate(
            "in the untrained network", (0.0, y), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=7, color=SOFT,
        )  # fmt: skip
    for name, values in steps.items():
        look = _LOOKS[name]
        if len(values) > 1:
            at = np.minimum(values, beyond)
            axes.plot(at, [y] * len(at), ".", color=look["color"], markersize=3)
        fill = "white" if middle[name] >= beyond else look["color"]
        axes.plot(middle[name], y, markerfacecolor=fill, linestyle="", clip_on=False, **look)


#: The largest mark is behind the others, so that all are visible where they coincide.
_LOOKS: dict[str, dict[str, Any]] = {
    "probed": {"color": BLUE, "marker": "s", "markersize": 7.0, "zorder": 3},
    "first_token": {"color": ORANGE, "marker": "D", "markersize": 4.6, "zorder": 4},
    "emerged": {"color": VERMILLION, "marker": "o", "markersize": 3.6, "zorder": 5},
}
_WORDS = {
    "probed": "a probe has the first token",
    "first_token": "the model has it",
    "emerged": "the model gives the whole answer (emergence)",
}


def _legend(figure: Any, shown: list[str], *, several: bool) -> None:
    handles = [handle(_WORDS[name], linestyle="", **_LOOKS[name]) for name in shown]
    if several:
        look = {"color": GREY, "marker": ".", "linestyle": "", "markersize": 4}
        handles.append(handle("every seed (mark: median)", **look))
    legend(figure, handles)
