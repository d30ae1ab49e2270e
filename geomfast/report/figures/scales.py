"""Figures of all runs of a sweep: scales by colour, seeds as thin lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.trajectories import in_order, select
from geomfast.records import FINAL
from geomfast.report.axes import rank_axis
from geomfast.report.colours import GREY, scale_look
from geomfast.report.curves import runs_text, samples_of
from geomfast.report.data import ReportData
from geomfast.report.figures import dots
from geomfast.report.figures.dots import Group
from geomfast.report.style import canvas, handle, head, legend, multiples, styled
from geomfast.testbed.tasks.names import task_level

#: Look of the mark of :func:`emergence_mark`.
EMERGENCE: dict[str, Any] = {"marker": "^", "markersize": 7.5, "linestyle": "", "color": GREY}
EMERGENCE["markeredgecolor"] = "white"


@styled
def collapse_by_scale(found: ReportData) -> Any:
    """RankMe of the final state on the easiest level of every task, a colour for every scale.

    None where there is one run of every task.
    """
    cells, rank = found.cells, select(found.records, "rankme", FINAL)
    level = int(cells["level"].min())
    rank = in_order(rank[rank["level"] == level])
    if rank.empty or not cells.duplicated(["task", "level"]).any():
        return None
    tasks, scales = (list(dict.fromkeys(rank[name])) for name in ("task", "scale"))
    names = [task_level(task, level) for task in tasks]
    figure, panels = multiples(names, float(rank["step"].max()), "RankMe (log)")
    for task, axes in zip(tasks, panels.values(), strict=True):
        for scale in scales:
            colour, _ = scale_look(scale)
            rows = rank[(rank["task"] == task) & (rank["scale"] == scale)]
            seed_lines(axes, rows, colour)
            its = cells[(cells["task"] == task) & (cells["level"] == level)]
            emergence_mark(axes, its[its["scale"] == scale], colour)
    rank_axis(next(iter(panels.values())), rank["value"].to_numpy(dtype=float))
    handles = [handle(scale, color=scale_look(scale)[0], linewidth=1.8) for scale in scales]
    handles.append(handle("emergence (median over seeds)", **EMERGENCE))
    legend(figure, handles)
    text = (
        f"{runs_text(cells)}; n = {samples_of(rank)} samples per value; final state; thick: median "
        "over seeds, thin: every seed"
    )
    head(figure, "Collapse and recovery at every scale", text, 0.75)
    return figure


@styled
def events_by_scale(found: ReportData) -> Any:
    """Floor and emergence step of every task-level, a mark for every scale.

    None where there is one run of every task.
    """
    cells = found.cells
    if not cells.duplicated(["task", "level"]).any():
        return None
    groups = []
    for scale in dict.fromkeys(cells["scale"]):
        colour, marker = scale_look(str(scale))
        groups.append(Group(str(scale), colour, marker, cells[cells["scale"] == scale]))
    last = float(found.records["step"].max())
    figure = events_figure(cells, groups, last)
    text = f"{runs_text(cells)}; dashed: two dimensions, the paper's floor of MOD"
    head(figure, "Floors and emergence at every scale", text, 0.75)
    return figure


def events_figure(cells: pd.DataFrame, groups: Sequence[Group], last: float) -> Any:
    """Floors (left) and emergence steps (right), a row per task-level, without a heading."""
    count = len(cells[["task", "level"]].drop_duplicates())
    figure, grid = canvas(
        9.6, dots.ROW * count + 2.1, 1, 2, left=0.75, right=0.35, top=1.05, bottom=1.0, wspace=0.06
    )
    rows = dots.by_task(cells)
    dots.floor_panel(grid[0, 0], rows, groups)
    dots.emergence_panel(grid[0, 1], rows, groups, last)
    several = any(group.cells.duplicated(["task", "level"]).any() for group in groups)
    dots.group_legend(figure, groups, several=several)
    return figure


def seed_lines(axes: Any, rows: pd.DataFrame, colour: Any, dash: Any = "-") -> None:
    """Draw a measure of one layer and task-level, a thin line per run and a thick median."""
    runs = [part for _, part in rows.groupby("run", sort=False)]
    look = {"color": colour, "linestyle": dash}
    for part in runs if len(runs) > 1 else []:
        axes.plot(part["step"], part["value"], linewidth=0.6, alpha=0.45, **look)
    median = rows.groupby("step")["value"].median()
    axes.plot(median.index, median, linewidth=1.7, **look)


def emergence_mark(axes: Any, cells: pd.DataFrame, colour: Any) -> None:
    """Draw a triangle at the median emergence step, unless most seeds have none."""
    emerged = cells["emerged_step"].fillna(np.inf).median()
    if emerged < np.inf:
        axes.plot(
            emerged, 0.0, clip_on=False, zorder=5, transform=axes.get_xaxis_transform(),
            **EMERGENCE | {"color": colour},
        )  # fmt: skip
