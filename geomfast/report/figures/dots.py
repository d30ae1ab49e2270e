"""Panels with a row per task-level and a mark per group of runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from geomfast.report.axes import guides, log_ticks, row_axis, step_axis
from geomfast.report.colours import DASHED, GREY, LINE, SOFT
from geomfast.report.extras import need
from geomfast.report.style import handle, legend
from geomfast.testbed.tasks.names import task_level

#: Inches of a row, and the part of it over which groups are spread.
ROW, SPREAD = 0.27, 0.62


@dataclass(frozen=True)
class Group:
    """A group of runs with a colour and a mark.

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
    """Make y an axis with a row per task-level, in the order of the table; returns them."""
    rows = list(dict.fromkeys(zip(cells["task"], cells["level"], strict=True)))
    labels = [task_level(*row) for row in rows] if named else []
    row_axis(axes, labels or [""] * len(rows))
    axes.tick_params(axis="y", pad=7)  # marks at the edge reach over it
    guides(axes)
    # Lines between tasks help the eye from a mark to its name.
    for index, (one, other) in enumerate(itertools.pairwise(rows)):
        if one[0] != other[0]:
            axes.axhline(index + 0.5, color=LINE, linewidth=0.6, zorder=0)
    return rows


def marks(
    axes: Any, rows: Sequence[tuple[str, int]], groups: Sequence[Group], column: str, beyond: float
) -> None:
    """Draw every run's value as a small dot, and their median as the group's mark.

    Args:
        axes: of :func:`task_rows`.
        rows: its task-levels.
        groups: runs by colour; they are spread over the height of a row.
        column: of the cells.
        beyond: position of infinite values and medians.
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
    """Draw floors of RankMe on a logarithmic axis, with a line at two dimensions."""
    rows = task_rows(axes, cells, named=True)
    log2_axis(axes)
    axes.axvline(2.0, color=GREY, linewidth=0.9, linestyle=DASHED, zorder=0)
    marks(axes, rows, groups, "floor", float("inf"))
    axes.set_xlabel("floor of RankMe, final state (log)")


def emergence_panel(axes: Any, cells: pd.DataFrame, groups: Sequence[Group], last: float) -> None:
    """Draw emergence steps, with a strip beside the axis for task-levels that did not emerge."""
    rows = task_rows(axes, cells, named=False)
    beyond = strip(axes, last)
    behaved = []
    for group in groups:
        its = group.cells[group.cells["final_accuracy"].notna()]
        behaved.append(replace(group, cells=its.fillna({"emerged_step": np.inf})))
    marks(axes, rows, behaved, "emerged_step", beyond)
    axes.set_xlabel("emergence step (log)")


def log2_axis(axes: Any) -> None:
    """Make x a logarithmic axis of RankMe, with ticks at the powers of two and between."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(need("matplotlib.ticker").LogLocator(base=2.0, subs=(1.0, 1.5)))
    log_ticks(axes.xaxis)


def strip(axes: Any, last: float) -> float:
    """Make x a step axis with a strip beyond its end for events that did not happen.

    Returns:
        The position of its middle.
    """
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
    """Positions beyond the last step of a step axis, by shares of its length."""
    return [float(np.expm1(float(np.log1p(last)) * (1 + share))) for share in shares]


def by_task(table: pd.DataFrame) -> pd.DataFrame:
    """The rows by task, in the order of the table, and by level."""
    place = {task: index for index, task in enumerate(dict.fromkeys(table["task"]))}
    ordered = table.sort_values("level", kind="stable")
    return ordered.sort_values("task", key=lambda task: task.map(place), kind="stable")


def group_legend(figure: Any, groups: Sequence[Group], *, several: bool) -> None:
    """Write a legend of the groups below the figure, with small dots if one has several runs."""
    handles = [
        handle(g.name, color=g.colour, marker=g.marker, linestyle="", markersize=5) for g in groups
    ]
    if several:
        look = {"color": GREY, "marker": ".", "linewidth": 0.8, "markersize": 4}
        handles.append(handle("every seed (mark: median)", **look))
    legend(figure, handles)
