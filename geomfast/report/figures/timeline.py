"""Figure of the steps of floor, recovery and emergence of every task-level of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geomfast.report.axes import STEPS, beside, guides, step_axis
from geomfast.report.colours import BLACK, BLUE, LINE, PURPLE, RED_TEXT, VERMILLION
from geomfast.report.curves import caption
from geomfast.report.style import canvas, head, legend, styled
from geomfast.testbed.tasks.names import task_level


@styled
def timeline(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Floor, recovery and emergence of every task-level on one axis, earliest emergence on top."""
    order = table.sort_values(["emerged_step", "floor_step"], na_position="last")
    # A minimum above the initial value is not the floor of a collapse.
    order = order.assign(floor_step=order["floor_step"].where(order["collapsed"]))
    figure, grid = canvas(
        9.6, 0.235 * len(order) + 1.75, left=0.85, right=1.5, top=0.75, bottom=0.9
    )
    axes, last = grid[0, 0], float(run["step"].max())
    marks = [
        ("floor_step", "v", BLACK, "floor of RankMe"),
        ("recovery_step", "^", BLUE, "half of the drop recovered"),
        ("logprob_step", "D", PURPLE, "emergence by log-probability"),
        ("emerged_step", "o", VERMILLION, "emergence by accuracy"),
    ]
    place = np.arange(len(order))
    steps = order[[name for name, _, _, _ in marks]].to_numpy(dtype=float)
    for y, row in zip(place, steps, strict=True):
        if not np.isnan(row).all():
            axes.plot([np.nanmin(row), np.nanmax(row)], [y, y], color=LINE, linewidth=1.2)
    for name, marker, colour, label in marks:
        # Hollow, so that both kinds of emergence are visible where they coincide.
        hollow = {"markerfacecolor": "none", "markersize": 9} if marker == "D" else {}
        look = {"color": colour, "markersize": 5.5, "linestyle": ""} | hollow
        axes.plot(order[name], place, marker=marker, label=label, zorder=3, **look)
    never = order["emerged_step"].isna() & order["final_accuracy"].notna()
    accuracies, pending = order["final_accuracy"][never], order["pending"][never]
    for y, accuracy, nearly in zip(place[never], accuracies, pending, strict=True):
        # Beside the axes, where no mark can be.
        said = f"{'pending' if nearly else 'not emerged'} ({accuracy:.0%})"
        beside(axes, said, y, 1.01, color=RED_TEXT)
    names = [task_level(t, v) for t, v in zip(order["task"], order["level"], strict=True)]
    axes.set_yticks(place, names)
    axes.set_ylim(len(order) - 0.4, -0.6)
    guides(axes)
    step_axis(axes, last)
    axes.set_xlabel(STEPS)
    legend(figure, axes.get_legend_handles_labels()[0], fontsize=8.5)
    head(figure, "Collapse, recovery, emergence", caption(run), 0.85)
    return figure
