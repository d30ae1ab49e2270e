"""Figures of collapse and recovery: one panel per task-level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from geomfast.records import FINAL
from geomfast.report.axes import STEPS, rank_axis, step_axis
from geomfast.report.colours import (
    BLACK,
    BLUE,
    DASHED,
    RED_TEXT,
    SOFT,
    VERMILLION,
    block_colour,
    layer_looks,
)
from geomfast.report.curves import Curves, caption, curves
from geomfast.report.style import canvas, handle, head, legend, panels_of, styled
from geomfast.testbed.tasks.names import task_level


class _Panels:
    """Panels of one run, one per task-level.

    Args:
        run: its records.
        table: its rows of :func:`geomfast.analysis.cells`.
    """

    def __init__(self, run: pd.DataFrame, table: pd.DataFrame) -> None:
        self.rank, self.accuracy = curves(run, "rankme"), curves(run, "accuracy")
        self.last, self.table = float(run["step"].max()), table

    def has(self, task: str, level: int) -> bool:
        """Whether the table has a task-level."""
        return not self._rows(task, level).empty

    def _rows(self, task: str, level: int) -> pd.DataFrame:
        return self.table[(self.table["task"] == task) & (self.table["level"] == level)]

    def draw(
        self,
        axes: Any,
        cell: tuple[str, int],
        *,
        left: bool,
        right: bool,
        lowest: bool,
        **title: Any,
    ) -> None:
        """RankMe of every layer on the left, accuracy as a filled curve on the right.

        Args:
            axes: of the panel.
            cell: task and level.
            left, right, lowest: whether the panel is at that edge of the figure, with labels.
            title: text properties of its title.
        """
        layers, rows = self.rank.get(cell, {}), self._rows(*cell)
        other = _behaviour_axes(axes, self.accuracy.get(cell, {}).get(""))
        looks = layer_looks(layers)
        for name in layers:
            axes.plot(*layers[name], color=looks[name][0], linewidth=2.0 if name == FINAL else 0.9)
        if layers:
            rank_axis(axes, np.concatenate([values for _, values in layers.values()]))
        else:
            axes.set_yticks([])
        for row in rows[:1].to_dict("records"):
            if row["collapsed"] and not math.isnan(row["floor"]):
                axes.plot(row["floor_step"], row["floor"], "v", color=BLACK, markersize=6, zorder=5)
            if not math.isnan(row["emerged_step"]):
                look = {"color": VERMILLION, "linewidth": 1.1, "linestyle": DASHED}
                axes.axvline(row["emerged_step"], **look)
        axes.tick_params(axis="y", colors=BLUE)
        axes.spines["left"].set_color(BLUE)
        step_axis(axes, self.last)
        axes.set_title(task_level(*cell), loc="left", **title)
        if left:
            axes.set_ylabel("RankMe (log)", color=BLUE)
        if right:
            other.set_ylabel("accuracy", color=RED_TEXT)
        else:
            other.set_yticklabels([])
        if lowest:
            axes.set_xlabel(STEPS)
        else:
            axes.set_xticklabels([])


def _behaviour_axes(axes: Any, accuracy: tuple[np.ndarray, np.ndarray] | None) -> Any:
    """Axes on the right for the accuracy, behind the curves of RankMe."""
    right = axes.twinx()
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.spines["right"].set_visible(True)
    right.set_ylim(0, 1.03)
    right.set_yticks([0, 0.5, 1])
    right.tick_params(axis="y", colors=RED_TEXT)
    right.spines["right"].set_color(VERMILLION)
    if accuracy is not None:
        right.fill_between(accuracy[0], accuracy[1], color=VERMILLION, alpha=0.12, linewidth=0)
        right.plot(*accuracy, color=VERMILLION, linewidth=1.4)
    return right


def _legend(figure: Any, rank: Curves) -> None:
    blocks = max((sum(name != FINAL for name in layers) for layers in rank.values()), default=0)
    handles = [handle("RankMe, final state (left)", color=BLUE, linewidth=2)]
    if blocks:
        text = "RankMe, each block (faint: first, strong: last)"
        handles.append(handle(text, color=block_colour(blocks - 1, blocks), linewidth=1))
    handles += [
        handle("accuracy (right)", color=VERMILLION, linewidth=1.4),
        handle("floor", color=BLACK, marker="v", linestyle=""),
        handle("emergence", color=VERMILLION, linewidth=1.1, linestyle=DASHED),
    ]
    legend(figure, handles, fontsize=8.5, columnspacing=1.6, handletextpad=0.6)


@styled
def collapse_headline(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """The easiest level of every task, for the README: 16 inches wide."""
    panels = _Panels(run, table)
    tasks, level = list(dict.fromkeys(table["task"])), int(table["level"].min())
    columns = min(4, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    # 12 inches at least, for the headline.
    width, height = max(4.0 * columns, 12.0), 2.6 * rows + 1.5
    figure, grid = canvas(
        width, height, rows, columns, top=1.15, bottom=0.95, wspace=0.2, hspace=0.28
    )
    for index, (task, axes, left, lowest) in enumerate(panels_of(grid, tasks)):
        right = index % columns == columns - 1 or index == len(tasks) - 1
        panels.draw(axes, (task, level), left=left, right=right, lowest=lowest, fontsize=11)
    said = _finding(table, level)
    at = 0.65 / width
    figure.text(at, 1 - 0.15 / height, said, va="top", fontsize=14, fontweight="bold")
    text = f"{caption(run)}; level {level} of each task"
    figure.text(at, 1 - 0.5 / height, text, va="top", fontsize=9.5, color=SOFT)
    _legend(figure, panels.rank)
    return figure


def _finding(table: pd.DataFrame, level: int) -> str:
    """The finding of these records as a headline."""
    rows = table[(table["level"] == level) & table["floor"].notna()]
    if rows.empty:
        return "RankMe and accuracy while one model learns"
    emerged = rows[rows["emerged_step"].notna()]
    first = int((emerged["collapsed"] & (emerged["floor_step"] < emerged["emerged_step"])).sum())
    fell = int(rows["collapsed"].sum())
    text = f"The representation collapses in {fell} of {len(rows)} tasks"
    if len(emerged):
        text += f"; in {first} of {len(emerged)} the floor comes before the capability"
    return text


@styled
def collapse_grid(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Collapse and recovery of every task-level: a row per task, a column per level."""
    panels = _Panels(run, table)
    tasks, levels = list(dict.fromkeys(table["task"])), sorted(set(table["level"]))
    figure, grid = canvas(
        max(3.7 * len(levels) + 1.0, 9.0), 1.6 * len(tasks) + 1.6, len(tasks), len(levels),
        top=0.95, bottom=0.85, wspace=0.2, hspace=0.38,
    )  # fmt: skip
    cells = [(task, level) for task in tasks for level in levels]
    for cell, axes, left, lowest in panels_of(grid, cells):
        if panels.has(*cell):
            panels.draw(axes, cell, left=left, right=cell[1] == levels[-1], lowest=lowest)
        else:
            axes.set_axis_off()
    head(figure, "Collapse and recovery, every task-level", caption(run))
    _legend(figure, panels.rank)
    return figure
