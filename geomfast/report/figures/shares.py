"""Figure of the shares of wall time: training, writing and every measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from geomfast.measures import catalog
from geomfast.report.axes import beside, row_axis, share_axis
from geomfast.report.colours import BLACK, GREY, LINE, VERMILLION, plain_colour
from geomfast.report.curves import runs_text
from geomfast.report.data import ReportData
from geomfast.report.panels import spec_texts
from geomfast.report.style import area, canvas, head, styled
from geomfast.runs.timing import TRAINING, WRITING

#: Name, colour and hatch of every part of :func:`geomfast.runs.timing.wall_time`.
PARTS: dict[str, tuple[str, str, str]] = {
    TRAINING: ("training", LINE, ""),
    WRITING: ("writing", GREY, ""),
    "behaviour": ("behaviour and the forward pass", VERMILLION, ""),
    **{
        name: (spec_texts(spec)[0], plain_colour(spec.colour), spec.hatch)
        for name, spec in catalog().specs.items()
    },
}
#: Other names of these parts in records of a tracker.
_TRACKED = {"behaviour": "loss of the samples", WRITING: "copying weights and writing"}
#: Most inches of a letter of the labels on the left.
_LETTER = 0.075


@styled
def wall_shares(found: ReportData) -> Any:
    """Share of the wall time that each part takes, a bar per scale over all of its runs.

    None where no time was recorded.
    """
    scale_of = dict(zip(found.cells["run"], found.cells["scale"], strict=True))
    table = found.wall.assign(scale=found.wall["run"].map(scale_of)).dropna(subset="scale")
    if not table["seconds"].sum() > 0:
        return None
    scales = [scale for scale in found.scales if scale in set(table["scale"])]
    known = [part for part in PARTS if part in set(table["part"])]
    shown = [*known, *(part for part in dict.fromkeys(table["part"]) if part not in PARTS)]
    bottom = 0.2 * len(shown) + 0.85
    left = max(1.0, _LETTER * max(map(len, scales)) + 0.25)
    figure, grid = canvas(
        10.6, 0.52 * len(scales) + 0.95 + bottom, left=left, right=1.6, top=0.95, bottom=bottom
    )
    axes = grid[0, 0]
    for y, scale in enumerate(scales):
        _bar(axes, y, table[table["scale"] == scale], shown)
    row_axis(axes, scales)
    share_axis(axes)
    whole = TRAINING in shown
    axes.set_xlabel("share of the wall time" if whole else "share of the time of measuring")
    _legend(figure, table, shown, _TRACKED if found.tracked else {})
    devices = ", ".join(sorted({str(d) for d in found.records["device"].dropna()}))
    text = f"{runs_text(found.cells)}; device: {devices or '?'}"
    head(figure, "Where the time went", text + ("" if whole else "; training not recorded"), left)
    return figure


def _look(part: str) -> dict[str, Any]:
    _, colour, hatch = PARTS.get(part, (part, BLACK, ""))
    return {
        "facecolor": "white" if hatch else colour,
        "edgecolor": colour if hatch else "white",
        "hatch": hatch,
        "linewidth": 0.8,
    }


def _bar(axes: Any, y: int, rows: pd.DataFrame, shown: list[str]) -> None:
    seconds = rows.groupby("part")["seconds"].sum()
    start, whole = 0.0, max(float(seconds.sum()), 1e-12)
    for part in shown:
        share = float(seconds.get(part, 0.0)) / whole
        axes.barh(y, share, left=start, height=0.62, **_look(part))
        if share >= 0.05:
            axes.text(
                start + share / 2, y, f"{share:.0%}", ha="center", va="center", fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85},
            )  # fmt: skip
        start += share
    beside(axes, f"{duration(whole / rows['run'].nunique())} a run", y, 1.01, fontsize=8)


def _legend(figure: Any, table: pd.DataFrame, shown: list[str], called: Mapping[str, str]) -> None:
    """Write a line per part, with the cost of a measure at one checkpoint."""
    handles = []
    for part in shown:
        rows, (label, _, _) = table[table["part"] == part], PARTS.get(part, (part, "", ""))
        label = called.get(part, label)
        if taken := int(rows["checkpoints"].sum()):
            cost, counts = float(rows["seconds"].sum()) / taken, rows["checkpoints"]
            least, most = int(counts.min()), int(counts.max())
            many = f"{most}" if least == most else f"{least} to {most}"
            label += f": {duration(cost)} a checkpoint on average, at {many} of a run"
        handles.append(area(label, **_look(part)))
    figure.legend(
        handles=handles, loc="lower left", frameon=False, labelspacing=0.4,
        bbox_to_anchor=(0.9 / figure.get_size_inches()[0], 0.0),
    )  # fmt: skip


def duration(seconds: float) -> str:
    """A time in a suitable unit: 20 ms, 1.5 s, 12 min, 3.4 h."""
    if seconds < 1.0:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120.0:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200.0 else f"{seconds / 3600:.1f} h"
