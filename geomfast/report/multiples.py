"""Panels of one kind by training step, one for each task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from geomfast.report.style import canvas, need, step_axis


def multiples(names: Sequence[str], last: float, label: str) -> tuple[Any, dict[str, Any]]:
    """A figure with a panel for every name, three or four in a row, that share their y axis.

    Args:
        names: headings of the panels.
        last: training step that the x axes end at.
        label: of the y axes.

    Returns:
        The figure, with room for a heading and a legend below, and the axes by name.
    """
    # Four would leave one alone in its row.
    columns = 3 if len(names) > 4 and len(names) % 4 == 1 else min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure, grid = canvas(
        max(3.1 * columns + 1.2, 9.0), 2.1 * rows + 1.9, rows, columns, left=0.75, right=0.3,
        top=1.05, bottom=0.95, wspace=0.16, hspace=0.42, sharey=True,
    )  # fmt: skip
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    found = dict(zip(names, grid.flat, strict=False))
    for index, (name, axes) in enumerate(found.items()):
        axes.set_title(name, loc="left")
        step_axis(axes, last)
        axes.spines["right"].set_visible(False)
        if index % columns == 0:
            axes.set_ylabel(label)
        if index + columns >= len(names):
            axes.set_xlabel("training step (log)")
    return figure, found


def plain_numbers(axes: Any) -> None:
    """Ticks of a log axis as plain numbers, at the powers of ten."""
    ticker = need("matplotlib.ticker")
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Of values and of their errors' ends, by step: ``middle``, ``low`` and ``high``."""
    ends = pd.DataFrame(
        {
            "step": rows["step"],
            "middle": rows["value"],
            "low": rows["value"] - rows["stderr"].fillna(0.0),
            "high": rows["value"] + rows["stderr"].fillna(0.0),
        }
    )
    return ends.groupby("step").median()


def samples_of(rows: pd.DataFrame) -> str:
    """The n of some records as text."""
    return ", ".join(f"{n:,}" for n in sorted({int(n) for n in rows["n"].dropna()}))
