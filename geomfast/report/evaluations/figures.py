"""Figures of benchmarks over training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from geomfast.analysis.trajectories import in_order, select
from geomfast.report.axes import guides, row_axis, share_axis, step_axis
from geomfast.report.colours import BLUE, GREY, INK, LINE, ORANGE, SOFT
from geomfast.report.curves import medians
from geomfast.report.evaluations.data import Evaluations
from geomfast.report.evaluations.wording import measure_name, short_step, task_name
from geomfast.report.extras import need
from geomfast.report.figures import Picture
from geomfast.report.style import area, band, canvas, handle, head, legend, multiples, styled

#: Most tasks of a map, and most panels of curves.
MOST_ROWS, MOST_PANELS = 60, 16
_ROW, _LETTER = 0.27, 0.082


def run_colours(found: Evaluations) -> dict[str, Any]:
    """A colour for every run: the largest model is darkest."""
    ramp = need("matplotlib").colormaps["viridis_r"]
    count = len(found.runs)
    return {run: ramp(0.12 + 0.88 * i / max(count - 1, 1)) for i, run in enumerate(found.runs)}


@styled
def emergence_map(found: Evaluations) -> Any:
    """Step at which each task leaves chance, by task and run; None where no task does."""
    table = pd.concat([found.rises, found.pooled_rises])
    names = [*found.shown, *found.members][:MOST_ROWS]
    if not names or table["step"].isna().all():
        return None
    labels = [task_name(name, found.members) for name in names]
    left = max(1.5, _LETTER * max(map(len, labels)) + 0.3)
    width = left + 0.62 * len(found.runs) + 1.35
    figure, grid = canvas(
        max(width, 8.2), _ROW * len(names) + 2.2, left=left, right=1.25, top=1.15, bottom=0.95
    )
    axes = grid[0, 0]
    steps = table["step"].dropna()
    low, high = (math.log10(1 + x) for x in (steps.min(), steps.max()))
    ramp = need("matplotlib").colormaps["viridis_r"]
    for y, task in enumerate(names):
        for x, run in enumerate(found.runs):
            rows = table[(table["task"] == task) & (table["run"] == run)]
            if rows.empty:
                continue
            row = rows.iloc[0]
            if math.isnan(row["step"]):
                mark = "…" if row["pending"] else "‹" if row["early"] else "·"
                axes.text(x, y, mark, ha="center", va="center", color=SOFT)
                continue
            share = (math.log10(1 + row["step"]) - low) / (high - low or 1.0)
            colour = ramp(0.05 + 0.9 * share)
            axes.add_patch(_square(x, y, colour))
            dark = sum(colour[:3]) < 1.35
            said = short_step(row["step"]) + ("" if row["kept"] else " ↓")
            look = {"fontsize": 7, "color": "white" if dark else INK}
            axes.text(x, y, said, ha="center", va="center", **look)
    if found.members:
        axes.axhline(len(found.shown) - 0.5, color=LINE, linewidth=1)
    _matrix_axes(axes, labels, [found.labels[run] for run in found.runs])
    never = found.rises["task"].nunique() - len(found.shown)
    text = (
        f"{len(found.runs)} models; in the cells: first checkpoint of three above chance and above "
        "the first value by two standard errors; ↓ lost again by the end, · never, … too late to "
        f"tell, ‹ above from the first checkpoint; {never} tasks without a rise are not shown"
    )
    head(figure, "When each task leaves chance", text, 0.3)
    return figure


def _matrix_axes(axes: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Names beside and below squares, without lines."""
    axes.set_xlim(-0.6, len(columns) - 0.4)
    row_axis(axes, rows)
    axes.set_xticks(range(len(columns)), columns, rotation=35)
    axes.tick_params(axis="x", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _square(x: float, y: float, colour: Any) -> Any:
    return need("matplotlib.patches").Rectangle(
        (x - 0.46, y - 0.44), 0.92, 0.88, facecolor=colour, linewidth=0
    )


@styled
def curves(found: Evaluations) -> Any:
    """Accuracy by step of the tasks that leave chance, a line per run with its standard errors."""
    names = [*found.shown[: MOST_PANELS - len(found.members)], *found.members]
    if not names:
        return None
    records = pd.concat([found.records, found.pooled])
    values = in_order(select(records, "accuracy"))
    labels = [task_name(name, found.members) for name in names]
    figure, panels = multiples(labels, float(values["step"].max()), "accuracy", common=False)
    colours = run_colours(found)
    for name, axes in zip(names, panels.values(), strict=True):
        rows = values[values["task"] == name]
        if name in found.chance:
            axes.axhline(found.chance[name], color=GREY, linewidth=0.9, linestyle=(0, (3, 2)))
        for run in found.runs:
            own = rows[rows["run"] == run]
            if len(own):
                band(axes, medians(own), colours[run], 0.15)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), max(high, low + 0.1))
    handles = [handle(found.labels[run], color=colours[run], linewidth=1.8) for run in found.runs]
    handles.append(handle("chance", color=GREY, linewidth=0.9, linestyle=(0, (3, 2))))
    legend(figure, handles)
    shown = len(names) - len(found.members)
    text = (
        f"{shown} of {len(found.shown)} tasks that leave chance in any model; band: standard error"
    )
    head(figure, "Accuracy over training", text, 0.75)
    return figure


@styled
def middle_half(found: Evaluations) -> Any:
    """Where the middle half of every rise lies, by task and run; None where there is none."""
    table = found.sudden[found.sudden["measure"] == "accuracy"]
    there = set(table["task"])
    names = [name for name in found.shown if name in there][:MOST_ROWS]
    if not names:
        return None
    colours = run_colours(found)
    runs = [run for run in found.runs if run in set(table["run"])]
    tall = 0.1 * len(runs) + 0.16
    labels = [task_name(name, found.members) for name in names]
    left = max(1.5, _LETTER * max(map(len, labels)) + 0.3)
    figure, grid = canvas(
        10.6, tall * len(names) + 2.4, left=left, right=0.4, top=1.15, bottom=1.15
    )
    axes = grid[0, 0]
    for y, name in enumerate(names):
        for i, run in enumerate(runs):
            rows = table[(table["task"] == name) & (table["run"] == run)]
            place = y + 0.8 * ((i + 0.5) / len(runs) - 0.5)
            for row in rows.to_dict("records"):
                wide = [row["low_after"], row["high"]]
                axes.plot(wide, [place] * 2, color=colours[run], linewidth=0.8)
                axes.plot([row["low"], row["high"]], [place] * 2, color=colours[run], linewidth=3.2,
                          solid_capstyle="butt")  # fmt: skip
    step_axis(axes, float(found.records["step"].max()))
    guides(axes)
    row_axis(axes, labels)
    axes.set_xlabel("training step (log)")
    legend(figure, [handle(found.labels[run], color=colours[run], linewidth=3) for run in runs])
    text = (
        "thick: from a quarter to three quarters of the rise of accuracy, interpolated between "
        "checkpoints; thin: since the last checkpoint before the quarter"
    )
    head(figure, "Over how much of training tasks rise", text, 0.3)
    return figure


@styled
def agreement(found: Evaluations) -> Any:
    """Pairs of tasks in the same and in the opposite order, by pair of runs; None for one run."""
    table = found.order
    if table.empty or not (table["same"] + table["swapped"]).any():
        return None
    count = len(found.runs)
    figure, grid = canvas(
        max(0.82 * count + 2.6, 7.5), 0.55 * count + 2.5, left=1.5, right=1.0, top=1.15, bottom=1.0
    )
    axes = grid[0, 0]
    place = {run: i for i, run in enumerate(found.runs)}
    ramp = need("matplotlib").colormaps["Oranges"]
    for row in table.to_dict("records"):
        x, y = place[str(row["other"])], place[str(row["run"])]
        decided = row["same"] + row["swapped"]
        share = row["swapped"] / decided if decided else 0.0
        axes.add_patch(_square(x, y, ramp(min(1.0, 4 * share))))
        axes.text(x, y, f"{row['swapped']}/{decided}", ha="center", va="center", fontsize=8)
    names = [found.labels[run] for run in found.runs]
    _matrix_axes(axes, names, names)
    text = (
        "swapped pairs of tasks of all whose order is known in both models; a task that never "
        "leaves chance is later than one that does"
    )
    head(figure, "Does the order of tasks change with scale?", text, 0.3)
    return figure


@styled
def what_leads(found: Evaluations) -> Any:
    """Share of rises before which a measure of the geometry has changed; None without geometry."""
    table = found.precursors
    table = table[table["events"] > 0] if len(table) else table
    if table.empty:
        return None
    names = [measure_name(name) for name in table["measure"]]
    left = max(1.6, _LETTER * max(map(len, names)) + 0.3)
    figure, grid = canvas(9.0, 0.42 * len(table) + 2.2, left=left, right=0.9, top=1.15, bottom=1.0)
    axes = grid[0, 0]
    for y, row in enumerate(table.to_dict("records")):
        start = 0.0
        for count, colour in ((row["leads"], BLUE), (row["ties"], LINE), (row["lags"], ORANGE)):
            axes.barh(y, count / row["events"], left=start, height=0.6, color=colour)
            start += count / row["events"]
        axes.plot([row["low"], row["high"]], [y, y], color=INK, linewidth=1.1)
        axes.annotate(
            f"{row['leads']}/{row['events']}", (1.02, y), xycoords=("axes fraction", "data"),
            va="center", fontsize=8, color=SOFT,
        )  # fmt: skip
    row_axis(axes, names)
    share_axis(axes)
    axes.set_xlabel("share of rises")
    legend(
        figure,
        [
            *(
                area(t, facecolor=c)
                for t, c in (("before", BLUE), ("tie", LINE), ("after", ORANGE))
            ),
            handle("95% interval of before", color=INK, linewidth=1.1),
        ],
    )
    text = f"{int(table['events'].max())} rises of tasks; the rest of a bar: no change found"
    head(figure, "What changes before tasks leave chance", text, 0.3)
    return figure


#: All figures, in the order of the page.
FIGURES = (
    Picture(
        "emergence-map", "When each task leaves chance", emergence_map, ("accuracy",),
        "Dark cells are late: look along a row for whether larger models are earlier, and down a "
        "column for the order of tasks.",
    ),
    Picture(
        "curves", "Accuracy over training", curves, ("accuracy",),
        "Curves below the dashed line are no ignorance but a preference for wrong answers.",
    ),
    Picture(
        "middle-half", "Sudden or gradual", middle_half, ("accuracy",),
        "Short bars are sudden rises; none can be shorter than the distance of checkpoints.",
    ),
    Picture(
        "agreement", "Order of tasks between scales", agreement, ("accuracy",),
        "Few swapped pairs: the order of tasks is the same at both sizes.",
    ),
    Picture(
        "what-leads", "Geometry before behaviour", what_leads, ("rankme", "accuracy"),
        "Long blue bars: the measure changes before nearly every rise.",
    ),
)  # fmt: skip
