"""Figure of the statistics over seeds, against scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geomfast.report.axes import guides
from geomfast.report.colours import BLACK, BLUE, DASHED, ORANGE, VERMILLION
from geomfast.report.population.data import Population
from geomfast.report.population.figures.common import (
    heading,
    scale_axis,
    scale_names,
    score_name,
    success_text,
)
from geomfast.report.style import canvas, styled

#: Column, label, colour and marker of what a panel shows.
_LEFT = (("success", "P(success)", VERMILLION, "o"),)
_RIGHT = (
    ("given_success", "mean given success", BLUE, "s"),
    ("mean", "mean", BLACK, "o"),
    ("mode", "mode", ORANGE, "^"),
)


@styled
def scaling(population: Population) -> Any:
    """P(success) on the left, mean given success, mean and mode on the right; None without any."""
    found = population.summary
    if found["mean"].notna().sum() == 0:
        return None
    names = list(scale_names(population).values())
    width = max(9.6, 1.1 * len(found) + 2.0)
    figure, grid = canvas(width, 4.1, 1, 2, left=0.75, right=0.3, top=1.2, bottom=0.75, wspace=0.2)
    for axes, lines in zip(grid[0], (_LEFT, _RIGHT), strict=True):
        for index, (column, label, colour, marker) in enumerate(lines):
            shift = 0.1 * (index - (len(lines) - 1) / 2)
            _line(axes, found, column, shift, label=label, color=colour, marker=marker)
        scale_axis(axes, names)
        axes.set_xlabel("scale, smallest first")
        guides(axes, "y")
    left, right = grid[0]
    left.set_ylim(-0.03, 1.03)
    left.set_ylabel("P(success)")
    left.set_title("how often", loc="left")
    right.axhline(population.success, color=VERMILLION, linewidth=0.9, linestyle=DASHED)
    right.set_ylabel(score_name(population))
    right.set_title("how well", loc="left")
    right.legend(frameon=True, edgecolor="none", fontsize=8, loc="best")
    how = f"95% intervals over seeds; {success_text(population)}"
    heading(figure, population, "How often, and how well", how, 0.75)
    return figure


def _line(axes: Any, found: pd.DataFrame, column: str, shift: float, **look: Any) -> None:
    at = np.arange(len(found)) + shift
    values = found[column].to_numpy(dtype=float)
    ends = found[[f"{column}_low", f"{column}_high"]].to_numpy(dtype=float)
    known = ~np.isnan(values)
    axes.plot(at[known], values[known], markersize=5, linewidth=1.4, **look)
    sure = known & ~np.isnan(ends).any(axis=1)
    axes.vlines(at[sure], ends[sure, 0], ends[sure, 1], color=look["color"], linewidth=1.1)
