"""A row for each task-level, a mark for each of several groups of runs: who has what, and when."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from geomfast.report.axes import guides, plain_numbers, row_axis, step_axis
from geomfast.report.colours import DASHED, GREY, LINE, SOFT
from geomfast.report.extras import need
from geomfast.report.style import handle, legend
from geomfast.testbed.tasks.names import task_level

#: Inches of a row, and what part of it the groups are spread over.
ROW, SPREAD = 0.27, 0.62


@dataclass(frozen=True)
class Group:
    """Runs that share a colour and a mark.

    Attributes:
        name: for the legend.
        colour, marker: of its marks.
        cells: rows of :func:`geomfast.analysis.cells`.
    """

    name: str
    colour: Any
    marker: str
    cells: pd.DataFrame


def task_rows(axes: Any, cells: pd.DataFrame, *, named: bool) -> list[tuple[str, int]]:
    """Make y a row per task-level, in the order of the table; returns them."""
    rows = list(dict.fromkeys(zip(cells["task"], cells["level"], strict=True)))
    labels = [task_level(*row) for row in rows] if named else []
    row_axis(axes, labels or [""] * len(rows))
    axes.tick_params(axis="y", pad=7)  # marks at the edge reach over it
    guides(axes)
    # A line between tasks, so that a mark is easily led back to its name.
    for index, (one, other) in enumerate(itertools.pairwise(rows)):
        if one[0] != other[0]:
            axes.axhline(index + 0.5, color=LINE, linewidth=0.6, zorder=0)
    return rows


def marks(
    axes: Any, rows: Sequence[tuple[str, int]], groups: Sequence[Group], column: str, beyond: float
) -> None:
    """Every run's value as a small dot, and their median as the group's mark.

    Args:
        axes: of :func:`task_rows`.
        rows: its task-levels.
        groups: runs by colour; they are spread over the height of a row.
        column: of the cells.
        beyond: where a value stands that is infinite, or the median of mostly such.
    """
    for index, group in enumerate(groups):
        shift = SPREAD * ((index + 0.5) / len(groups) - 0.5)
        by = {key: part[column].to_numpy() for key, part in group.cells.groupby(["task", "level"])}
        for y, key in enumerate(rows):
            values = by.get(key, np.array([]))
            values = values[~np.isnan(values)]
            if not len(values):
                continue
            at = np.minimum(values, beyond)
            middle, place = min(float(np.median(values)), beyond), y + shift
            look = {"color": group.colour, "linestyle": ""}
            if len(at) > 1:
                axes.plot([at.min(), at.max()], [place] * 2, color=group.colour, linewidth=0.8)
                axes.plot(at, [place] * len(at), marker=".", markersize=3, **look)
            fill = "white" if middle >= beyond else group.colour
            axes.plot(
                middle, place, marker=group.marker, markersize=4.6, markerfacecolor=fill,
                markeredgewidth=1.0, zorder=3, clip_on=False, **look,
            )  # fmt: skip


def floor_panel(axes: Any, cells: pd.DataFrame, groups: Sequence[Group]) -> None:
    """Floors of RankMe, on a logarithmic axis, with a line at two dimensions."""
    rows = task_rows(axes, cells, named=True)
    log2_axis(axes)
    axes.axvline(2.0, color=GREY, linewidth=0.9, linestyle=DASHED, zorder=0)
    marks(axes, rows, groups, "floor", float("inf"))
    axes.set_xlabel("floor of RankMe, final state (log)")


def emergence_panel(axes: Any, cells: pd.DataFrame, groups: Sequence[Group], last: float) -> None:
    """Emergence steps; what has not emerged stands in a strip of its own beside the axis."""
    rows = task_rows(axes, cells, named=False)
    beyond = strip(axes, last)
    behaved = []
    for group in groups:
        its = group.cells[group.cells["final_accuracy"].notna()]
        behaved.append(replace(group, cells=its.fillna({"emerged_step": np.inf})))
    marks(axes, rows, behaved, "emerged_step", beyond)
    axes.set_xlabel("emergence step (log)")


def log2_axis(axes: Any) -> None:
    """Make x the logarithm of a RankMe, which is small: ticks at the powers of two and between."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(need("matplotlib.ticker").LogLocator(base=2.0, subs=(1.0, 1.5)))
    plain_numbers(axes.xaxis)


def strip(axes: Any, last: float) -> float:
    """Make x a step axis with a strip beyond its end for what did not happen; its middle."""
    step_axis(axes, last)
    edge, beyond, end = past(last, 0.05, 0.11, 0.17)
    axes.axvspan(edge, end, color="#f3f4f6", linewidth=0, zorder=0)
    axes.set_xlim(0, end)
    axes.annotate(
        "never\nso far", (beyond, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
        textcoords="offset points", ha="center", va="bottom", fontsize=7.5, color=SOFT,
    )  # fmt: skip
    return beyond


def past(last: float, *shares: float) -> list[float]:
    """Places beyond the last step of a step axis, by shares of its length."""
    return [float(np.expm1(float(np.log1p(last)) * (1 + share))) for share in shares]


def by_task(table: pd.DataFrame) -> pd.DataFrame:
    """The rows task after task, levels within, tasks in the order they are in."""
    place = {task: index for index, task in enumerate(dict.fromkeys(table["task"]))}
    ordered = table.sort_values("level", kind="stable")
    return ordered.sort_values("task", key=lambda task: task.map(place), kind="stable")


def group_legend(figure: Any, groups: Sequence[Group], *, several: bool) -> None:
    """Marks of the groups below the figure; with small dots where a group has several runs."""
    handles = [
        handle(g.name, color=g.colour, marker=g.marker, linestyle="", markersize=5) for g in groups
    ]
    if several:
        look = {"color": GREY, "marker": ".", "linewidth": 0.8, "markersize": 4}
        handles.append(handle("every seed (mark: median)", **look))
    legend(figure, handles)
