"""Figures of the order of changes: every measure against the emergence of its task-level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.leads import COLLAPSE, EVENTS, LAG, LEAD, MEASURES, NO_CHANGE, TIE
from geomfast.report.axes import beside, guides, row_axis, share_axis
from geomfast.report.colours import BLUE, GREY, INK, LINE, ORANGE, PURPLE, SOFT, level_looks
from geomfast.report.curves import runs_text
from geomfast.report.data import ReportData
from geomfast.report.style import area, canvas, handle, head, styled

#: Names of measures in figures.
NAMES: dict[str, str] = {
    "rankme": "RankMe",
    COLLAPSE: "RankMe, half-collapse",
    "fisher_rank": "Fisher rank",
    "gradient_covariance_rank": "gradient covariance rank",
    "hessian_top": "top Hessian eigenvalue",
    "llc": "LLC",
    "answer_logprob": "log-probability (behaviour)",
}
#: Colour and hatch of every outcome of an event.
_OUTCOMES = {LEAD: (BLUE, ""), TIE: (LINE, ""), LAG: (ORANGE, ""), NO_CHANGE: ("white", "////")}
#: From top to bottom.
_ORDER = (COLLAPSE, *MEASURES)
_LEFT, _ROW = 2.15, 0.62


def _two(
    found: ReportData, measures: Sequence[str], width: float, height: float, **look: Any
) -> tuple[Any, Any, Any]:
    """A figure, and its two axes with a row per measure, named on the left."""
    names = NAMES | {"llc": f"{NAMES['llc']}\n{found.doubts}".strip()}
    height += _ROW * len(measures)
    figure, grid = canvas(width, height, 1, 2, left=_LEFT, bottom=1.1, wspace=0.1, **look)
    row_axis(grid[0, 0], [names[name] for name in measures])
    row_axis(grid[0, 1], [""] * len(measures))
    return figure, *grid[0]


@styled
def lead_forest(found: ReportData) -> Any:
    """The lead of each measure over emergence in doublings of the step, found in two ways.

    None where no measure can be set against an emergence.
    """
    table, curves = found.leads, found.correlations
    events = table[table["outcome"].isin(EVENTS)]
    measures = [name for name in _ORDER if name in set(events["measure"])]
    if not measures:
        return None
    figure, left, right = _two(
        found, measures, 11.6, 2.35, right=1.35, top=1.25, width_ratios=(3, 2)
    )
    for axes in (left, right):
        axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
        guides(axes)
    for y, name in enumerate(measures):
        _event_dots(left, y, events[events["measure"] == name])
    left.set_xlabel("lead over emergence (doublings of the step)")
    left.set_title("change point, every task-level", loc="left")
    low, high = left.get_xlim()
    left.set_xlim(min(low, -1.5), max(high, 1.5))
    _sides(left)
    for y, name in enumerate(measures):
        _correlation(right, y, curves[curves["measure"] == name])
    right.set_xlim(-3.3, 3.3)
    right.set_xlabel("lead over accuracy (doublings of the step)")
    right.set_title("cross-correlation of changes, 95% interval", loc="left")
    _sides(right)
    _forest_legend(figure)
    text = f"{runs_text(found.cells)}; n = {len(events):,} pairs of a change and an emergence"
    head(figure, "Which measures change first", text, _LEFT)
    return figure


def _event_dots(axes: Any, y: float, rows: pd.DataFrame) -> None:
    """Every task-level's lead by outcome, their quartiles and their median."""
    known = rows[rows["lead"].notna()]
    # Spread over the height of the row by a fixed pattern, so that dots do not overlap.
    spread = y + 0.24 * (np.modf(np.arange(len(known)) * 0.618)[0] - 0.5) + 0.1
    for outcome in (LEAD, TIE, LAG):
        chosen = (known["outcome"] == outcome).to_numpy()
        colour, _ = _OUTCOMES[outcome]
        colour = GREY if outcome == TIE else colour
        axes.plot(
            known["lead"][chosen], spread[chosen], linestyle="", marker=_MARKS[outcome],
            markersize=3, color=colour, alpha=0.75, markeredgewidth=0.7,
        )  # fmt: skip
    if len(known):
        low, middle, high = np.quantile(known["lead"], [0.25, 0.5, 0.75])
        axes.plot([low, high], [y - 0.2] * 2, color=INK, linewidth=2.2, solid_capstyle="butt")
        axes.plot(middle, y - 0.2, "D", color=INK, markersize=4.5)


_MARKS = {LEAD: "o", TIE: "x", LAG: "s"}


def _correlation(axes: Any, y: float, rows: pd.DataFrame) -> None:
    """Lead by cross-correlation with its interval; hollow where it may be chance."""
    if rows.empty:
        return
    row = rows.iloc[0]
    sure = row["p_value"] < 0.05
    if not np.isnan(row["low"]):
        axes.plot([row["low"], row["high"]], [y, y], color=PURPLE, linewidth=1.6)
    fill = PURPLE if sure else "white"
    axes.plot(row["lead"], y, "o", color=PURPLE, markersize=6, markerfacecolor=fill)
    said = f"r = {row['correlation']:.2f}, p = {row['p_value']:.2g}"
    beside(axes, said, y)


def _sides(axes: Any) -> None:
    look = {"xycoords": "axes fraction", "fontsize": 8, "color": SOFT, "va": "top"}
    axes.annotate("← after", (0.02, 0.995), ha="left", **look)
    axes.annotate("before →", (0.98, 0.995), ha="right", **look)


def _forest_legend(figure: Any) -> None:
    words = {LEAD: "lead", TIE: "tie: within one checkpoint", LAG: "lag"}
    colours = {LEAD: BLUE, TIE: GREY, LAG: ORANGE}
    handles = [
        handle(label, linestyle="", marker=_MARKS[name], markersize=4, color=colours[name])
        for name, label in words.items()
    ]
    handles.append(handle("median and quartiles", color=INK, marker="D", markersize=4.5))
    look = {"color": PURPLE, "markersize": 6, "linestyle": "", "marker": "o"}
    handles += [handle("p < 0.05", **look), handle("p ≥ 0.05", markerfacecolor="white", **look)]
    look = {"frameon": False, "columnspacing": 1.4, "handletextpad": 0.5}
    figure.legend(handles=handles, loc="lower center", ncols=6, **look)


@styled
def hierarchy(found: ReportData) -> Any:
    """Outcomes of all events, and the precursor rate by difficulty with its interval.

    None where no measure can be set against an emergence.
    """
    rates = found.precursors
    rates = rates[(rates["scale"] == "") & (rates["events"] > 0)]
    measures = [name for name in _ORDER if name in set(rates["measure"])]
    if not measures:
        return None
    figure, bars, dots = _two(found, measures, 10.6, 2.2, right=0.55, top=1.1, width_ratios=(2, 3))
    for axes in (bars, dots):
        share_axis(axes)
        axes.set_axisbelow(True)
    for row in rates[rates["level"] == 0].to_dict("records"):
        _outcome_bar(bars, measures.index(row["measure"]), row)
    bars.set_xlabel("share of events")
    bars.set_title("before, with or after emergence", loc="left")
    levels = sorted(set(rates["level"]) - {0})
    for y, name in enumerate(measures):
        _rates(dots, y, rates[rates["measure"] == name], levels)
    guides(dots)
    dots.set_xlabel("precursor rate: leads of all events, 95% interval")
    dots.set_title("precursor rate by difficulty", loc="left")
    _hierarchy_legends(figure, levels)
    text = f"{runs_text(found.cells)}; events: task-levels that emerged; counts: leads of events"
    head(figure, "Which measures announce a capability", text, _LEFT)
    return figure


def _outcome_bar(axes: Any, y: float, row: Mapping[Any, Any]) -> None:
    counts = [row["leads"], row["ties"], row["lags"], row["no_change"]]
    start = 0.0
    for count, (colour, hatch) in zip(counts, _OUTCOMES.values(), strict=True):
        share = count / row["events"]
        axes.barh(
            y, share, left=start, height=0.56, color=colour, hatch=hatch, edgecolor="#6b7280",
            linewidth=0.5,
        )  # fmt: skip
        if share > 0.08:
            white = colour == BLUE
            axes.text(
                start + share / 2, y, str(int(count)), ha="center", va="center", fontsize=8,
                color="white" if white else INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1} if hatch else None,
            )  # fmt: skip
        start += share


def _rates(axes: Any, y: float, rows: pd.DataFrame, levels: Sequence[int]) -> None:
    for index, level in enumerate(levels):
        part = rows[rows["level"] == level]
        if part.empty:
            continue
        row, (colour, marker) = part.iloc[0], level_looks(levels)[level]
        place = y + 0.6 * ((index + 0.5) / len(levels) - 0.5)
        axes.plot([row["low"], row["high"]], [place] * 2, color=colour, linewidth=1.3)
        look = {"marker": marker, "color": colour, "markersize": 5}
        axes.plot(row["rate"], place, clip_on=False, zorder=3, **look)
        beside(axes, f"{row['leads']:.0f}/{row['events']:.0f}", place, 1.015, fontsize=7)


def _hierarchy_legends(figure: Any, levels: Sequence[int]) -> None:
    words = {LEAD: "before", TIE: "tie", LAG: "after", NO_CHANGE: "no change found"}
    patches = [
        area(words[name], facecolor=colour, hatch=hatch, edgecolor="#6b7280", linewidth=0.5)
        for name, (colour, hatch) in _OUTCOMES.items()
    ]
    width, _ = figure.get_size_inches()
    look = {"frameon": False, "columnspacing": 1.2, "handletextpad": 0.5, "loc": "lower left"}
    figure.legend(handles=patches, ncols=4, bbox_to_anchor=(_LEFT / width - 0.01, 0), **look)
    marks = [
        handle(f"level {level}", color=colour, marker=marker, linewidth=1.3)
        for level, (colour, marker) in level_looks(levels).items()
    ]
    figure.legend(handles=marks, ncols=len(marks), bbox_to_anchor=(0.58, 0), **look)
