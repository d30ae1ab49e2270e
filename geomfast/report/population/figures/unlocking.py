"""Figure of the Wasserstein-2 distance between neighbouring scales."""

from __future__ import annotations

from typing import Any

import numpy as np

from geomfast.report.colours import BLUE, DASHED, GREY, LINE, SOFT, VERMILLION
from geomfast.report.population.data import Population
from geomfast.report.population.figures.common import heading, p_text
from geomfast.report.style import area, canvas, handle, styled

#: Style of the line below which distances may be chance.
_CHANCE: dict[str, Any] = {"color": GREY, "linewidth": 1.2, "linestyle": DASHED}


@styled
def unlocking_figure(population: Population) -> Any:
    """Distances of neighbouring scales as bars.

    None where no pair has a distance above zero.
    """
    found = population.distances
    if not found["w2"].gt(0.0).any():
        return None
    figure, grid = canvas(
        max(7.6, 1.15 * len(found) + 2.2), 3.9, left=0.85, right=0.3, top=1.0, bottom=1.1
    )
    axes, peak = grid[0, 0], population.unlocking
    lost = peak.change < 0
    at, w2 = np.arange(len(found)), found["w2"].to_numpy(dtype=float)
    is_peak = (found["larger"] == peak.scale).to_numpy()
    axes.bar(at, np.nan_to_num(w2), 0.62, color=[VERMILLION if p else BLUE for p in is_peak])
    axes.vlines(at, found["low"], found["high"], color="#1f2328", linewidth=1.2)
    axes.hlines(found["chance"], at - 0.38, at + 0.38, **_CHANCE)
    top = float(np.nanmax(found[["w2", "high", "chance"]].to_numpy(dtype=float)))
    axes.set_ylim(0, 1.25 * top)
    for index, row in enumerate(found.to_dict("records")):
        if np.isnan(row["w2"]):
            axes.text(index, 0.02 * top, "too few\nseeds", ha="center", fontsize=7.5, color=SOFT)
            continue
        above = max(row["w2"], row["high"], row["chance"]) + 0.02 * top
        words = f"{p_text(row['holm_p'])}\npeak in {row['peak_share']:.0%}"
        axes.text(index, above, words, ha="center", va="bottom", fontsize=7.5, color=SOFT)
    named = population.labels
    names = [
        f"{named[row['smaller']]} →\n{named[row['larger']]}"
        + "\n(scores fall)" * (row["change"] < 0)
        for row in found.to_dict("records")
    ]
    axes.set_xticks(at, names)
    axes.set_xlim(-0.6, len(found) - 0.4)
    axes.set_ylabel("Wasserstein-2 distance of scores")
    handles = [
        area(f"peak: the larger one {'loses' if lost else 'unlocks'}", color=VERMILLION),
        handle("95% of distances by chance (seeds assigned at random)", **_CHANCE),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False, fontsize=8)
    axes.grid(axis="y", color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    how = "95% bootstrap intervals; p by permutation, corrected for the pairs"
    heading(figure, population, f"Where it {'is lost' if lost else 'unlocks'}", how, 0.85)
    return figure
