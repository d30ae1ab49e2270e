"""Figures over layers and over task-levels, and the list of all figures of a run.

Every function takes the records of one run and the rows of :func:`geomfast.analysis.cells` for
it, and returns a matplotlib ``Figure``; nothing here touches pyplot's global state.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.collapse import half_collapse
from geomfast.analysis.trajectories import task_level
from geomfast.records import FINAL, layer_depth
from geomfast.report.curves import Curves, caption, curves
from geomfast.report.gradients import gradient_ranks
from geomfast.report.hessian import hessian_figure
from geomfast.report.llc import llc_figure
from geomfast.report.panels import collapse_grid, collapse_headline
from geomfast.report.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    canvas,
    head,
    step_axis,
    styled,
)


@styled
def layer_map(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Layer by step, per task: RankMe over its initial value (log scale), median over levels."""
    rank = curves(run, "rankme")
    tasks = list(dict.fromkeys(task for task, _ in rank))
    columns = min(4, max(len(tasks), 1))
    rows = max(math.ceil(len(tasks) / columns), 1)
    layers = sorted({n for c in rank.values() for n in c}, key=layer_depth)
    width = max(3.1 * columns + 1.6, 9.0)
    figure, grid = canvas(
        width, (0.9 + 0.28 * len(layers)) * rows + 1.7, rows, columns, left=0.85, right=1.3,
        top=1.05, bottom=0.6, wspace=0.12, hspace=1.0 / (0.28 * len(layers) + 0.35),
    )  # fmt: skip
    last, image = float(run["step"].max()), None
    for index, axes in enumerate(grid.flat):
        if index >= len(tasks):
            axes.set_axis_off()
            continue
        edges, values = _relative(rank, tasks[index], layers)
        image = axes.pcolormesh(
            edges, np.arange(len(layers) + 1) + 0.5, values, cmap="PuOr", vmin=-2, vmax=2,
            rasterized=True,
        )  # fmt: skip
        axes.set_yticks(range(1, len(layers) + 1), layers if index % columns == 0 else [])
        axes.tick_params(axis="y", length=0)
        axes.set_title(tasks[index], loc="left")
        axes.spines["right"].set_visible(False)
        step_axis(axes, last)
        if index + columns >= len(tasks):
            axes.set_xlabel("training step (log)")
    if image is not None:
        _, height = figure.get_size_inches()
        place = (1 - 1.1 / width, 0.6 / height, 0.15 / width, 1 - 1.65 / height)
        bar = figure.colorbar(image, cax=figure.add_axes(place), extend="both")
        bar.set_ticks([-2, -1, 0, 1, 2], labels=["1/4", "1/2", "1", "2", "4"])
        bar.set_label("RankMe over its initial value")
        bar.outline.set_visible(False)
    head(figure, "Where the representation collapses", f"{caption(run)}; median over levels", 0.85)
    return figure


def _relative(rank: Curves, task: str, layers: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the steps (s + 1) and log2 of RankMe over its initial value, (layers, s)."""
    series = {
        (layer, level): pd.Series(np.log2(values / values[0]), index=steps)
        for (name, level), found in rank.items()
        if name == task
        for layer, (steps, values) in found.items()
    }
    wide = pd.DataFrame(series).sort_index()
    present = set(wide.columns.get_level_values(0))
    medians = [
        np.array(wide[layer].T.median()) if layer in present else np.full(len(wide), np.nan)
        for layer in layers
    ]
    # A checkpoint fills the space up to halfway to its neighbours, as seen on the log axis.
    place = np.log1p(wide.index.to_numpy(dtype=float))
    middle = (place[1:] + place[:-1]) / 2
    edges = np.expm1(np.concatenate([place[:1], middle, place[-1:] + 1e-3]))
    return edges, np.array(medians)


@styled
def top_down_figure(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Half-collapse step of every block, per task, a line per level."""
    halves = half_collapse(run)
    halves = halves[halves["layer"] != FINAL]
    tasks = list(dict.fromkeys(halves["task"]))
    blocks = sorted(set(halves["layer"]), key=layer_depth)
    columns = min(4, max(len(tasks), 1))
    rows = max(math.ceil(len(tasks) / columns), 1)
    width = max(3.1 * columns + 1.2, 9.0)
    figure, grid = canvas(
        width, (1.0 + 0.3 * max(len(blocks), 1)) * rows + 1.6, rows, columns, left=0.85, right=0.3,
        top=1.05, bottom=0.95, wspace=0.12, hspace=1.0 / (0.3 * max(len(blocks), 1) + 0.4),
    )  # fmt: skip
    levels = sorted(set(halves["level"]))
    styles = dict(zip(levels, _level_styles(), strict=False))
    last = float(np.nanmax(halves["half_step"])) if halves["half_step"].notna().any() else 1.0
    for index, axes in enumerate(grid.flat):
        if index >= len(tasks):
            axes.set_axis_off()
            continue
        for order, level in enumerate(levels):
            part = halves[(halves["task"] == tasks[index]) & (halves["level"] == level)]
            where = [blocks.index(name) + 1 for name in part["layer"]]
            colour, marker = styles.get(level, (GREY, "o"))
            # Levels that coincide stay visible when each is moved up a little from the one before.
            shift = 0.14 * (order - (len(levels) - 1) / 2)
            axes.plot(
                part["half_step"], np.array(where) + shift, marker=marker, color=colour,
                linewidth=1.2, markersize=5, label=f"level {level}",
            )  # fmt: skip
        axes.set_ylim(0.5, len(blocks) + 0.5)
        axes.set_yticks(range(1, len(blocks) + 1), blocks if index % columns == 0 else [])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, last * 1.08)
        if last > 200:
            step_axis(axes, last)
        axes.grid(axis="x", color="#e5e7eb", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines["right"].set_visible(False)
        axes.set_title(tasks[index], loc="left")
        if index + columns >= len(tasks):
            axes.set_xlabel("half-collapse step")
    if tasks:
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    text = f"{caption(run)}; rising to the left is top-down"
    head(figure, "When each block reaches half of its collapse", text, 0.85)
    return figure


def _level_styles() -> list[tuple[str, str]]:
    return [(BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D")]


@styled
def timeline(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Floor, recovery and emergence of every task-level on one axis, earliest emergence on top."""
    order = table.sort_values(["emerged_step", "floor_step"], na_position="last")
    # A minimum that lies above the initial value is no floor of a collapse.
    order = order.assign(floor_step=order["floor_step"].where(order["collapsed"]))
    figure, grid = canvas(
        9.6, 0.235 * len(order) + 1.75, left=0.85, right=1.5, top=0.75, bottom=0.9
    )
    axes, last = grid[0, 0], float(run["step"].max())
    marks = [
        ("floor_step", "v", BLACK, "floor of RankMe"),
        ("recovery_step", "^", BLUE, "half of it regained"),
        ("logprob_step", "D", PURPLE, "emergence by log-probability"),
        ("emerged_step", "o", VERMILLION, "emergence by accuracy"),
    ]
    place = np.arange(len(order))
    steps = order[[name for name, _, _, _ in marks]].to_numpy(dtype=float)
    for y, row in zip(place, steps, strict=True):
        if not np.isnan(row).all():
            axes.plot([np.nanmin(row), np.nanmax(row)], [y, y], color="#d1d5db", linewidth=1.2)
    for name, marker, colour, label in marks:
        # Hollow, so that both kinds of emergence show where they coincide.
        hollow = {"markerfacecolor": "none", "markersize": 9} if marker == "D" else {}
        look = {"color": colour, "markersize": 5.5, "linestyle": ""} | hollow
        axes.plot(order[name], place, marker=marker, label=label, zorder=3, **look)
    never = order["emerged_step"].isna() & order["final_accuracy"].notna()
    accuracies, pending = order["final_accuracy"][never], order["pending"][never]
    for y, accuracy, nearly in zip(place[never], accuracies, pending, strict=True):
        # Beside the axes, where no mark can be.
        axes.annotate(
            f"{'pending' if nearly else 'not emerged'} ({accuracy:.0%})",
            (1.01, y), xycoords=("axes fraction", "data"),
            va="center", fontsize=7.5, color=VERMILLION,
        )  # fmt: skip
    names = [task_level(t, v) for t, v in zip(order["task"], order["level"], strict=True)]
    axes.set_yticks(place, names)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines["right"].set_visible(False)
    step_axis(axes, last)
    axes.set_xlabel("training step (log)")
    figure.legend(loc="lower center", ncols=4, frameon=False, fontsize=8.5)
    head(figure, "Collapse, recovery, emergence", caption(run), 0.85)
    return figure


#: File name, heading and function of every figure of a run, in the order of the page. A function
#: returns None where there is nothing to draw.
FIGURES = (
    ("collapse", "Collapse and recovery in one picture", collapse_headline),
    ("collapse-grid", "Every task-level", collapse_grid),
    ("timeline", "Timeline", timeline),
    ("layers", "Layer by step", layer_map),
    ("top-down", "Order of the layers", top_down_figure),
    ("gradient-ranks", "Rank of the gradients", gradient_ranks),
    ("hessian", "Curvature of the loss", hessian_figure),
    ("llc", "Local learning coefficient", llc_figure),
)
