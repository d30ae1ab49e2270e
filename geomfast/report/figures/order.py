"""Figures of the order in which layers collapse: of one run, and over all runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.collapse import half_collapse
from geomfast.analysis.topdown import OTHER, TIED, TOP_DOWN
from geomfast.records import FINAL, layer_depth
from geomfast.report.axes import guides, step_axis
from geomfast.report.colours import GREY, SOFT, level_looks
from geomfast.report.curves import caption, runs_text
from geomfast.report.data import ReportData
from geomfast.report.style import canvas, columns_for, head, legend, panels_of, styled

#: Sign of each verdict, beside the colour of its field.
_SIGNS = {TOP_DOWN: "▼", TIED: "=", OTHER: ""}


@styled
def top_down_figure(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Half-collapse step of every block, a panel per task and a line per level."""
    halves = half_collapse(run)
    halves = halves[halves["layer"] != FINAL]
    tasks = list(dict.fromkeys(halves["task"]))
    blocks = sorted(set(halves["layer"]), key=layer_depth)
    columns = columns_for(len(tasks))
    rows = max(math.ceil(len(tasks) / columns), 1)
    width = max(3.1 * columns + 1.2, 9.0)
    figure, grid = canvas(
        width, (1.0 + 0.3 * max(len(blocks), 1)) * rows + 1.6, rows, columns, left=0.85, right=0.3,
        top=1.05, bottom=0.95, wspace=0.12, hspace=1.0 / (0.3 * max(len(blocks), 1) + 0.4),
    )  # fmt: skip
    levels = sorted(set(halves["level"]))
    looks = level_looks(levels)
    last = float(np.nanmax(halves["half_step"])) if halves["half_step"].notna().any() else 1.0
    for task, axes, leftmost, lowest in panels_of(grid, tasks):
        for order, level in enumerate(levels):
            part = halves[(halves["task"] == task) & (halves["level"] == level)]
            where = [blocks.index(name) + 1 for name in part["layer"]]
            colour, marker = looks.get(level, (GREY, "o"))
            # Shifted, so that levels that coincide stay visible.
            shift = 0.14 * (order - (len(levels) - 1) / 2)
            axes.plot(
                part["half_step"], np.array(where) + shift, marker=marker, color=colour,
                linewidth=1.2, markersize=5, label=f"level {level}",
            )  # fmt: skip
        axes.set_ylim(0.5, len(blocks) + 0.5)
        axes.set_yticks(range(1, len(blocks) + 1), blocks if leftmost else [])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, last * 1.08)
        if last > 200:
            step_axis(axes, last)
        guides(axes)
        axes.set_title(task, loc="left")
        if lowest:
            axes.set_xlabel("half-collapse step")
    if tasks:
        legend(figure, grid.flat[0].get_legend_handles_labels()[0])
    text = f"{caption(run)}; rising to the left is top-down"
    head(figure, "When each block reaches half of its collapse", text, 0.85)
    return figure


@styled
def order_of_layers(found: ReportData) -> Any:
    """Kendall's tau-b between depth and half-collapse step, per task and run.

    None where no run has two blocks.
    """
    orders = found.orders
    orders = orders[orders["blocks"] >= 2]
    if orders.empty:
        return None
    tasks = list(dict.fromkeys(orders["task"]))
    models = orders.drop_duplicates(["scale", "seed"])[["scale", "seed", "blocks"]]
    columns = {key: i for i, key in enumerate(zip(models["scale"], models["seed"], strict=True))}
    width = max(0.56 * len(columns) + 2.6, 8.4)
    figure, grid = canvas(
        width, 0.34 * len(tasks) + 2.35, left=0.8, right=width - 0.8 - 0.56 * len(columns),
        top=1.15, bottom=1.1,
    )  # fmt: skip
    axes = grid[0, 0]
    tau = np.full((len(tasks), len(columns)), np.nan)
    for row in orders.to_dict("records"):
        y, x = tasks.index(row["task"]), columns[row["scale"], row["seed"]]
        tau[y, x] = row["tau_b"]
        # A tie of all layers has no tau-b, and the colour of the background.
        sign = _SIGNS.get(row["verdict"], "–")
        dark = not math.isnan(row["tau_b"]) and abs(row["tau_b"]) > 0.6
        axes.text(x, y, sign, ha="center", va="center", fontsize=9, color="white" if dark else SOFT)
    image = axes.pcolormesh(
        np.arange(len(columns) + 1) - 0.5, np.arange(len(tasks) + 1) - 0.5, tau, cmap="PuOr_r",
        vmin=-1, vmax=1, edgecolors="white", linewidth=1.5,
    )  # fmt: skip
    axes.set_facecolor("#eef0f2")
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_xticks(range(len(columns)), [f"seed\n{seed}" for _, seed in columns])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _name_scales(axes, models)
    _bar(figure, image, 0.8 + 0.56 * len(columns) + 0.4)
    text = (
        f"{runs_text(found.cells)}; median over levels; tau-b of depth and half-collapse step; "
        f"{_count(orders)}"
    )
    head(figure, "Which way the collapse goes", text, 0.8)
    figure.text(
        0.8 / width, 0.1 / figure.get_size_inches()[1],
        f"▼ {TOP_DOWN};  = {TIED};  no sign: {OTHER};  – some block does not collapse",
        fontsize=8.5, color=SOFT, va="bottom",
    )  # fmt: skip
    return figure


def _name_scales(axes: Any, models: pd.DataFrame) -> None:
    """Write each scale and its number of blocks over its columns."""
    scales = models["scale"].tolist()
    for scale in dict.fromkeys(scales):
        where = [i for i, name in enumerate(scales) if name == scale]
        blocks = int(models.loc[models["scale"] == scale, "blocks"].iloc[0])
        axes.text(
            (where[0] + where[-1]) / 2, -0.62, f"{scale}\n{blocks} blocks", ha="center",
            va="bottom", fontsize=8.5,
        )  # fmt: skip
        if where[0] > 0:
            axes.axvline(where[0] - 0.5, color="white", linewidth=6)


def _bar(figure: Any, image: Any, left: float) -> None:
    width, height = figure.get_size_inches()
    place = (left / width, 1.1 / height, 0.15 / width, 1 - (1.1 + 1.15) / height)
    bar = figure.colorbar(image, cax=figure.add_axes(place))
    bar.set_ticks([-1, 0, 1], labels=["-1: top-down", "0", "+1: bottom-up"])
    bar.set_label("Kendall's tau-b")
    bar.outline.set_visible(False)


def _count(orders: pd.DataFrame) -> str:
    deep = orders[orders["blocks"] >= 4]
    words = f"top-down: {int(orders['top_down'].sum())} of {len(orders)} tasks and models"
    return words + f", {int(deep['top_down'].sum())} of {len(deep)} with 4 blocks or more"
