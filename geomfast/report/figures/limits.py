"""Figure of what early geometry predicts of emergence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.concordance import decided, swaps
from geomfast.analysis.difficulty import early_correlation
from geomfast.analysis.intervals import Estimate, share_over_seeds
from geomfast.report.axes import beside, row_axis, share_axis, step_axis
from geomfast.report.colours import BLACK, GREY, SOFT, level_looks, scale_look
from geomfast.report.curves import runs_text
from geomfast.report.data import ReportData
from geomfast.report.figures.dots import log2_axis, past
from geomfast.report.style import canvas, handle, head, styled

#: Chance of a concordant pair, and of one at both of two scales.
_EVEN, _BOTH = 0.5, 0.25


@styled
def limits(found: ReportData) -> Any:
    """Early RankMe against emergence; their correlation by run and concordant pairs, if any.

    None where no run has an emergence after its first checkpoint.
    """
    early, correlations = found.early, early_correlation(found.early)
    if early.empty:
        return None
    last = float(found.records["step"].max())
    panels = [(4, lambda axes: _cloud(axes, early, last))]
    if correlations["rho"].notna().any():
        panels.append((3, lambda axes: _correlations(axes, correlations)))
    if not decided(found.pairs).empty:
        panels.append((3, lambda axes: _pairs(axes, found.pairs)))
    ratios = [share for share, _ in panels]
    figure, grid = canvas(
        1.5 + 1.19 * sum(ratios), 4.6, 1, len(panels), left=0.75, right=0.75, top=1.15, bottom=1.1,
        wspace=0.42, width_ratios=ratios,
    )  # fmt: skip
    for axes, (_, draw) in zip(grid[0], panels, strict=True):
        draw(axes)
    text = (
        f"{runs_text(found.cells)}; early: RankMe of the final state at the last checkpoint before "
        "the first emergence of a run"
    )
    head(figure, "What early geometry predicts of emergence", text, 0.75)
    return figure


def _cloud(axes: Any, early: pd.DataFrame, last: float) -> None:
    """Mark every task-level of every run, those that did not emerge in a strip on top."""
    edge, beyond, end = past(last, 0.05, 0.09, 0.14)
    looks = level_looks(set(early["level"]))
    for level, (colour, marker) in looks.items():
        rows = early[early["level"] == level]
        when = np.minimum(rows["emerged"].to_numpy(dtype=float), beyond)
        for chosen, fill in ((when < beyond, colour), (when >= beyond, "white")):
            axes.plot(
                rows["early"].to_numpy()[chosen], when[chosen], linestyle="", marker=marker,
                color=colour, markerfacecolor=fill, markersize=4, alpha=0.8, markeredgewidth=0.8,
            )  # fmt: skip
    step_axis(axes, last, "y")
    axes.axhspan(edge, end, color="#f3f4f6", linewidth=0, zorder=0)
    axes.set_ylim(0, end)
    if early["censored"].any():
        axes.annotate(
            "band: not emerged", (1.0, 1.0), xycoords="axes fraction", ha="right",
            va="bottom", fontsize=7.5, color=SOFT, xytext=(0, 3), textcoords="offset points",
        )  # fmt: skip
    log2_axis(axes)
    axes.set_xlabel("early RankMe (log)")
    axes.set_ylabel("emergence step (log)")
    axes.set_title("every task-level of every run", loc="left")
    handles = [
        handle(f"level {level}", linestyle="", marker=marker, color=colour, markersize=4)
        for level, (colour, marker) in looks.items()
    ]
    _legend(axes, handles)


def _correlations(axes: Any, table: pd.DataFrame) -> None:
    """Draw Spearman's rho of every run by scale, hollow at initialisation."""
    axes.set_title("Spearman's rho of every run", loc="left")
    axes.set_xlim(-1.05, 1.05)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_xlabel("rho between RankMe and emergence step")
    table = table[table["rho"].notna()]
    scales = list(dict.fromkeys(table["scale"]))
    row_axis(axes, scales)
    for y, scale in enumerate(scales):
        colour, marker = scale_look(scale)
        for geometry, shift, fill in (("early", -0.15, colour), ("initial", 0.17, "white")):
            rows = table[(table["scale"] == scale) & (table["geometry"] == geometry)]
            places = y + shift + 0.06 * (np.arange(len(rows)) - (len(rows) - 1) / 2)
            for place, row in zip(places, rows.to_dict("records"), strict=True):
                axes.plot([row["low"], row["high"]], [place] * 2, color=colour, linewidth=0.8)
                axes.plot(
                    row["rho"], place, marker=marker, color=colour, markerfacecolor=fill,
                    markersize=5, zorder=3,
                )  # fmt: skip
    look = {"linestyle": "", "marker": "o", "color": GREY, "markersize": 5}
    hollow = handle("at initialisation", markerfacecolor="white", **look)
    _legend(axes, [handle("early", **look), hollow])


def _pairs(axes: Any, pairs: pd.DataFrame) -> None:
    """Draw shares of concordant pairs: across levels, within each level, and of reversals."""
    axes.set_title("concordant pairs", loc="left")
    share_axis(axes)
    axes.set_xlabel("share of pairs, 95% interval")
    rows = _shares(pairs)
    row_axis(axes, [name for name, _, _, _ in rows])
    for y, (_, share, of, chance) in enumerate(rows):
        axes.plot([chance] * 2, [y - 0.32, y + 0.32], color=GREY, linewidth=1.6)
        if of:
            axes.plot([share.low, share.high], [y, y], color=BLACK, linewidth=1.4)
            axes.plot(share.value, y, "o", color=BLACK, markersize=5.5, clip_on=False, zorder=3)
        beside(axes, f"n = {of:,}", y)
    look = {"linestyle": "", "marker": "|", "markersize": 11, "markeredgewidth": 1.6}
    _legend(axes, [handle("chance", color=GREY, **look)])


def _legend(axes: Any, handles: list[Any]) -> None:
    """Write a legend below the axes and their label, in one line."""
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(handles),
        frameon=False, handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip


def _shares(pairs: pd.DataFrame) -> list[tuple[str, Estimate, int, float]]:
    """Name, share, count and chance of every kind of pair."""
    rows = []
    sure = decided(pairs)
    for level in (0, *sorted(set(pairs["level"]) - {0})):
        part = sure[sure["level"] == level]
        share = share_over_seeds(part["agrees"], part["run"], part["scale"])
        name = f"within level {level}" if level else "across levels"
        rows.append((name, share, len(part), _EVEN))
    if pairs["scale"].nunique() > 1:
        table = swaps(pairs)
        share = share_over_seeds(table["reversed"], table["seed"].astype(str), [""] * len(table))
        rows.append(("reversed between\nscales, both right", share, len(table), _BOTH))
    return rows
