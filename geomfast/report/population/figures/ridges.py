"""Figure of the distributions of score and loss, a histogram per scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from geomfast.analysis.population import bins
from geomfast.report.colours import DASHED, GREY, INK, SOFT, VERMILLION
from geomfast.report.population.data import Population
from geomfast.report.population.figures.common import (
    colours,
    heading,
    p_text,
    scale_names,
    score_name,
    success_text,
    widest,
)
from geomfast.report.style import canvas, styled

_BINS_OF_LOSS = 30


@styled
def ridges(population: Population) -> Any:
    """Histograms of every scale, the largest on top; None where no member has finished."""
    table = population.table
    if table["score"].notna().sum() == 0:
        return None
    with_loss = bool(table["loss"].notna().any())
    scales = population.scales
    names, palette = scale_names(population), colours(len(scales))
    left = max(1.05, 1.15 * widest(names.values()) + 0.2)
    width = (9.35 if with_loss else 7.35) + left
    figure, grid = canvas(
        width, 0.68 * len(scales) + 1.75, len(scales), 1 + with_loss, left=left, right=1.95,
        top=1.0, bottom=0.75, wspace=0.09, hspace=0.28, sharex="col",
    )  # fmt: skip
    edges = [bins(table), _loss_edges(table["loss"].dropna().to_numpy())][: 1 + with_loss]
    found = population.summary.set_index("scale")
    for row, index in zip(grid, reversed(range(len(scales))), strict=True):
        members = table[(table["scale"] == scales[index]) & table["score"].notna()]
        for axes, column, of in zip(row, ("score", "loss"), edges, strict=False):
            _bars(axes, members[column].dropna().to_numpy(), of, palette[index])
        row[0].axvline(population.success, color=VERMILLION, linewidth=0.9, linestyle=DASHED)
        row[0].set_ylabel(names[scales[index]], rotation=0, ha="right", va="center", labelpad=8)
        row[-1].annotate(
            _beside(found.loc[scales[index]]), (1.03, 0.5), xycoords="axes fraction", va="center",
            fontsize=7.5, color=SOFT, linespacing=1.35,
        )  # fmt: skip
    measured = population.records is not None
    grid[-1, 0].set_xlabel(score_name(population))
    if with_loss:
        grid[-1, 1].set_xlabel("loss (nats per answer token)" if measured else "loss")
    how = (
        f"dashed: {success_text(population)}; p: Hartigan's dip, ties spread over the score's "
        "resolution, corrected"
    )
    heading(figure, population, "Distributions over seeds", how, left)
    return figure


def _bars(axes: Any, values: np.ndarray, edges: np.ndarray, colour: Any) -> None:
    counts, _ = np.histogram(values, edges)
    # One shape: hundreds of bars would take a second to draw.
    axes.stairs(counts, edges, fill=True, color=colour)
    axes.set_ylim(0, max(counts.max(), 1) * 1.05)
    axes.set_yticks([])
    axes.set_xlim(edges[0], edges[-1])
    for side in ("left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(axis="x", length=2.5)
    if not len(values):
        axes.text(0.5, 0.35, "none finished", transform=axes.transAxes, ha="center", color=INK)


def _beside(row: Any) -> str:
    """n, P(success) and the dip of one scale."""
    first = f"n = {row['seeds']}"
    if row["unfinished"]:
        first += f" ({row['unfinished']} unfinished)"
    if np.isnan(row["success"]):
        return f"{first}\ntoo few for statistics" if row["seeds"] else first
    second = f"success {row['success']:.0%}; dip {p_text(row['holm_p'])}"
    return f"{first}\n{second}" + ("\nmore than one mode" if row["bimodal"] else "")


def _loss_edges(losses: np.ndarray) -> np.ndarray:
    """Edges of bins over all losses but the largest few, which would squeeze the others."""
    losses = losses[np.isfinite(losses)]
    if not len(losses):
        return np.linspace(0.0, 1.0, _BINS_OF_LOSS + 1)
    low, high = losses.min(), np.percentile(losses, 99.5)
    return np.linspace(low, high if high > low else low + 1.0, _BINS_OF_LOSS + 1)
