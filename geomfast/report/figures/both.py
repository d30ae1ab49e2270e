"""Figures of two sweeps over each other, blue and solid against orange and dashed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.trajectories import in_order, select
from geomfast.records import FINAL
from geomfast.report.axes import rank_axis
from geomfast.report.colours import BLUE, ORANGE
from geomfast.report.curves import runs_text, samples_of
from geomfast.report.data import ReportData
from geomfast.report.figures.dots import Group
from geomfast.report.figures.scales import EMERGENCE, emergence_mark, events_figure, seed_lines
from geomfast.report.style import handle, head, legend, multiples, styled
from geomfast.testbed.tasks.names import task_level

_DASH = (0, (5, 2))
_LINES: tuple[tuple[str, Any], ...] = ((BLUE, "-"), (ORANGE, _DASH))


def _names(ours: ReportData, other: ReportData, scales: tuple[str, str]) -> tuple[str, str]:
    """Names of the two in a legend, with their scales where these differ."""
    if scales[0] == scales[1]:
        return ours.name, other.name
    return f"{ours.name} ({scales[0]})", f"{other.name} ({scales[1]})"


@styled
def collapse_of_both(ours: ReportData, other: ReportData, scales: tuple[str, str]) -> Any:
    """RankMe of the final state on the easiest level that both have of every task.

    None where they share no task-level.
    """
    sides, cells = [], []
    for found, scale in zip((ours, other), scales, strict=True):
        rank = select(found.records, "rankme", FINAL)
        sides.append(in_order(rank[rank["scale"] == scale]))
        cells.append(found.cells[found.cells["scale"] == scale])
    easiest = _easiest(sides)
    if not easiest:
        return None
    last = max(float(side["step"].max()) for side in sides)
    names = [task_level(task, level) for task, level in easiest]
    figure, panels = multiples(names, last, "RankMe (log)")
    values = []
    for (task, level), axes in zip(easiest, panels.values(), strict=True):
        for side, table, (colour, dash) in zip(sides, cells, _LINES, strict=True):
            rows = side[(side["task"] == task) & (side["level"] == level)]
            seed_lines(axes, rows, colour, dash)
            values.append(rows["value"].to_numpy(dtype=float))
            its = table[(table["task"] == task) & (table["level"] == level)]
            emergence_mark(axes, its, colour)
    rank_axis(next(iter(panels.values())), np.concatenate(values))
    _legend(figure, _names(ours, other, scales))
    text = (
        f"{_runs(cells)}; n = {samples_of(pd.concat(sides))} samples per value; final state; "
        "thick: median over seeds"
    )
    head(figure, "Collapse and recovery of both", text, 0.75)
    return figure


def _easiest(sides: list[pd.DataFrame]) -> list[tuple[str, int]]:
    """Task and level, the lowest that both have, of every task they share."""
    one, two = (side[["task", "level"]].drop_duplicates() for side in sides)
    both = one.merge(two).groupby("task", sort=False)["level"].min()
    return [(str(task), int(level)) for task, level in both.items()]


@styled
def events_of_both(ours: ReportData, other: ReportData, scales: tuple[str, str]) -> Any:
    """Floor and emergence step of every task-level of either."""
    cells = [
        found.cells[found.cells["scale"] == scale]
        for found, scale in zip((ours, other), scales, strict=True)
    ]
    groups = [
        Group(name, colour, marker, table)
        for name, (colour, _), marker, table in zip(
            _names(ours, other, scales), _LINES, ("o", "s"), cells, strict=True
        )
    ]
    last = max(float(found.records["step"].max()) for found in (ours, other))
    figure = events_figure(pd.concat(cells), groups, last)
    text = f"{_runs(cells)}; dashed: two dimensions, the paper's floor of MOD"
    head(figure, "Floors and emergence of both", text, 0.75)
    return figure


def _runs(cells: list[pd.DataFrame]) -> str:
    return " against ".join(runs_text(table) for table in cells)


def _legend(figure: Any, names: tuple[str, str]) -> None:
    handles = [
        handle(name, color=colour, linestyle=dash, linewidth=1.7)
        for name, (colour, dash) in zip(names, _LINES, strict=True)
    ]
    handles.append(handle("emergence (median over seeds)", **EMERGENCE))
    legend(figure, handles, handlelength=3.2)
