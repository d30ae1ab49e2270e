"""Figure of the scaling curves of single seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.population import extremes
from geomfast.report.axes import log_ticks
from geomfast.report.colours import BLUE, GREY, INK, LINE, SOFT, VERMILLION
from geomfast.report.population.data import Population
from geomfast.report.population.figures.common import heading, scale_axis, scale_names, score_name
from geomfast.report.style import canvas, styled

#: Number of curves of either kind in colour, and of all curves in grey.
_SHOWN, _BEHIND = 6, 120


@styled
def curves_figure(population: Population) -> Any:
    """The most sudden and the most linear curves, and the distribution of all of them.

    None where there are too few scales with statistics, or all curves are flat.
    """
    found, curves, scales = population.curves
    if found.empty or not found["improvement"].any():
        return None
    figure, grid = canvas(
        11.4, 4.2, 1, 3, left=0.7, right=0.3, top=1.25, bottom=0.8, wspace=0.24,
        width_ratios=(1, 1, 0.9),
    )  # fmt: skip
    names = scale_names(population)
    sudden, straight = extremes(found, _SHOWN)
    low, high = float(curves.min()), float(curves.max())
    pad = 0.04 * max(high - low, 1e-9)
    panels = (
        (grid[0, 0], sudden, VERMILLION, "breakthroughness"),
        (grid[0, 1], straight, BLUE, "linearity"),
    )
    for axes, chosen, colour, what in panels:
        axes.plot(curves[:_BEHIND].T, color=LINE, linewidth=0.5, alpha=0.6, zorder=1)
        axes.plot(curves[chosen].T, color=colour, linewidth=1.4, alpha=0.85, zorder=2)
        scale_axis(axes, [names[scale] for scale in scales])
        axes.set_xlim(-0.2, len(scales) - 0.8)
        axes.set_ylim(low - pad, high + pad)
        axes.set_title(f"{_SHOWN} of the highest {what}", loc="left")
    grid[0, 0].set_ylabel(score_name(population))
    _all(grid[0, 2], found, len((population.of or population).curves[2]))
    how = (
        f"{len(found):,} curves of one seed drawn at each scale, some in grey; linearity L and "
        "breakthroughness B of arXiv:2206.04615"
    )
    heading(figure, population, "What single seeds would show", how, 0.7)
    return figure


def _all(axes: Any, found: pd.DataFrame, scales: int) -> None:
    """Draw B against L of every curve, with infinite B spread over a strip at the top."""
    straight, sudden = found["linearity"].to_numpy(), found["breakthroughness"].to_numpy()
    finite = np.abs(sudden[np.isfinite(sudden)])
    top = 2.0 * max(float(finite.max(initial=0.0)), float(scales))
    strip = top * np.random.default_rng(0).uniform(1.3, 3.0, len(sudden))
    height = np.where(np.isfinite(sudden), sudden, np.sign(sudden) * strip)
    axes.axhspan(1.15 * top, 3.4 * top, color="#f3f4f6", linewidth=0, zorder=0)
    axes.plot(straight, height, ".", color=GREY, markersize=2.5, alpha=0.5)
    axes.plot(scales - 1, scales - 1, "+", color=INK, markersize=9)
    axes.annotate(
        "straight\nline", (scales - 1, scales - 1), xytext=(0, -6), textcoords="offset points",
        ha="center", va="top", fontsize=7.5, color=SOFT,
    )  # fmt: skip
    axes.set_yscale("symlog", linthresh=1.0)
    log_ticks(axes.yaxis)
    axes.set_ylim(min(-1.0, 1.3 * float(height.min())), 3.4 * top)
    axes.set_xlim(min(0.0, float(straight.min())) - 0.3, scales - 0.5)
    axes.set_xlabel("linearity L")
    axes.set_ylabel("breakthroughness B")
    share = float((sudden == np.inf).mean())
    axes.set_title(f"all curves; shaded: infinite B, {share:.0%}", loc="left")
