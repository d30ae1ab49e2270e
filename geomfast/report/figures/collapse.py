"""Figures of collapse and recovery: one panel for each task-level.

Every function takes the records of one run and the rows of :func:`geomfast.analysis.cells` for
it, and returns a matplotlib ``Figure``; nothing here touches pyplot's global state.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from geomfast.records import FINAL
from geomfast.report.curves import Curves, caption, curves
from geomfast.report.style import (
    BLACK,
    BLUE,
    VERMILLION,
    block_colour,
    canvas,
    head,
    legend,
    need,
    rank_axis,
    step_axis,
    styled,
)
from geomfast.testbed.tasks.names import task_level

DASHED = (0, (3, 2))


def _panel(axes: Any, layers: dict, accuracy: tuple | None, row: pd.Series | None, last: float):
    """One task-level: RankMe of every layer on the left, accuracy as a filled curve on the right.

    Returns the right axes.
    """
    right = axes.twinx()
    # The accuracy lies behind the curves, which are what the figure is about.
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    right.set_ylim(0, 1.03)
    right.set_yticks([0, 0.5, 1])
    right.tick_params(axis="y", colors=VERMILLION)
    right.spines["right"].set_color(VERMILLION)
    if accuracy is not None:
        right.fill_between(accuracy[0], accuracy[1], color=VERMILLION, alpha=0.12, linewidth=0)
        right.plot(*accuracy, color=VERMILLION, linewidth=1.4)
    blocks = [name for name in layers if name != FINAL]
    for index, name in enumerate(blocks):
        axes.plot(*layers[name], color=block_colour(index, len(blocks)), linewidth=0.9)
    if FINAL in layers:
        axes.plot(*layers[FINAL], color=BLUE, linewidth=2.0)
    if layers:
        rank_axis(axes, np.concatenate([values for _, values in layers.values()]))
    else:
        axes.set_yticks([])
    if row is not None:
        if row["collapsed"] and not math.isnan(row["floor"]):
            axes.plot(row["floor_step"], row["floor"], "v", color=BLACK, markersize=6, zorder=5)
        if not math.isnan(row["emerged_step"]):
            axes.axvline(
                row["emerged_step"], color=VERMILLION, linewidth=1.1, linestyle=(0, (3, 2))
            )
    axes.tick_params(axis="y", colors=BLUE)
    axes.spines["left"].set_color(BLUE)
    step_axis(axes, last)
    return right


def _legend(figure: Any, blocks: int) -> None:
    Line2D = need("matplotlib.lines").Line2D
    handles = [Line2D([], [], color=BLUE, linewidth=2, label="RankMe, final state (left)")]
    if blocks:
        text = "RankMe, each block (light: first, dark: last)"
        colour = block_colour(blocks - 1, blocks)
        handles.append(Line2D([], [], color=colour, linewidth=1, label=text))
    handles += [
        Line2D([], [], color=VERMILLION, linewidth=1.4, label="accuracy (right)"),
        Line2D([], [], color=BLACK, marker="v", linestyle="", label="floor"),
        Line2D([], [], color=VERMILLION, linewidth=1.1, linestyle=DASHED, label="emergence"),
    ]
    legend(figure, handles, fontsize=8.5, columnspacing=1.6, handletextpad=0.6)


def _row(table: pd.DataFrame, task: str, level: int) -> pd.Series | None:
    rows = table[(table["task"] == task) & (table["level"] == level)]
    return None if rows.empty else rows.iloc[0]


def _blocks(rank: Curves) -> int:
    return max((sum(name != FINAL for name in layers) for layers in rank.values()), default=0)


@styled
def collapse_headline(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """The picture for the README: the easiest level of every task, 16 inches wide at 100 dpi."""
    rank, accuracy = curves(run, "rankme"), curves(run, "accuracy")
    tasks = list(dict.fromkeys(table["task"]))
    level = int(table["level"].min())
    columns = min(4, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    # The headline takes a line of 12 inches, however few the tasks.
    width = max(4.0 * columns, 12.0)
    figure, grid = canvas(
        width, 2.6 * rows + 1.5, rows, columns, top=1.15, bottom=0.95, wspace=0.2, hspace=0.28
    )
    last = float(run["step"].max())
    for index, axes in enumerate(grid.flat):
        if index >= len(tasks):
            axes.set_axis_off()
            continue
        cell = (tasks[index], level)
        behaviour = accuracy.get(cell, {}).get("")
        right = _panel(axes, rank.get(cell, {}), behaviour, _row(table, *cell), last)
        axes.set_title(task_level(*cell), loc="left", fontsize=11)
        if index % columns == 0:
            axes.set_ylabel("RankMe (log)", color=BLUE)
        if index % columns == columns - 1 or index == len(tasks) - 1:
            right.set_ylabel("accuracy", color=VERMILLION)
        else:
            right.set_yticklabels([])
        if index + columns >= len(tasks):
            axes.set_xlabel("training step (log)")
        else:
            axes.set_xticklabels([])
    figure.text(
        0.65 / width, 1 - 0.15 / figure.get_size_inches()[1], _finding(table, level), va="top",
        fontsize=14, fontweight="bold",
    )  # fmt: skip
    figure.text(
        0.65 / width, 1 - 0.5 / figure.get_size_inches()[1],
        f"{caption(run)}; level {level} of each task", va="top", fontsize=9.5, color="#4b5563",
    )  # fmt: skip
    _legend(figure, _blocks(rank))
    return figure


def _finding(table: pd.DataFrame, level: int) -> str:
    """A headline that says what these records show, and nothing they do not."""
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
    rank, accuracy = curves(run, "rankme"), curves(run, "accuracy")
    tasks = list(dict.fromkeys(table["task"]))
    levels = sorted(set(table["level"]))
    width = max(3.7 * len(levels) + 1.0, 9.0)
    figure, grid = canvas(
        width,
        1.6 * len(tasks) + 1.6,
        len(tasks),
        len(levels),
        top=0.95,
        bottom=0.85,
        wspace=0.2,
        hspace=0.38,
    )
    last = float(run["step"].max())
    for i, task in enumerate(tasks):
        for j, level in enumerate(levels):
            axes, row = grid[i, j], _row(table, task, level)
            if row is None:
                axes.set_axis_off()
                continue
            behaviour = accuracy.get((task, level), {}).get("")
            right = _panel(axes, rank.get((task, level), {}), behaviour, row, last)
            axes.set_title(task_level(task, level), loc="left")
            if j == 0:
                axes.set_ylabel("RankMe (log)", color=BLUE)
            if j == len(levels) - 1:
                right.set_ylabel("accuracy", color=VERMILLION)
            else:
                right.set_yticklabels([])
            if i == len(tasks) - 1:
                axes.set_xlabel("training step (log)")
            else:
                axes.set_xticklabels([])
    head(figure, "Collapse and recovery, every task-level", caption(run))
    _legend(figure, _blocks(rank))
    return figure
