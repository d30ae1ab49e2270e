"""The report of tracked runs: their curves first, and then the claims that they decide."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from geomfast.report import claims, page, tables
from geomfast.report.chart import script_json
from geomfast.report.colours import DOUBTFUL
from geomfast.report.compare import scale_pairs
from geomfast.report.curves import DOUBT, DOUBT_KEY, LEAST, LEAST_KEY, samples_of
from geomfast.report.data import ReportData
from geomfast.report.drawing import Drawn
from geomfast.report.figures.by_step import first_run
from geomfast.report.panels import Line, Panel, overlay, panels
from geomfast.report.settings import cadence, differences, readable_settings
from geomfast.testbed.tasks.names import task_level

#: Names of curves that are alone in their panel, whose title says more.
_IN_TITLE = ("eigenvalue", "trace", "LLC")


def lines(found: ReportData) -> list[tuple[str, str, str]]:
    """Label, value and remark of the key numbers: the last values of the first run's curves."""
    (first, *more) = found.runs
    suffix = f", {first}" if more else ""
    shown = []
    for panel in panels(found.records[found.records["run"] == first]):
        for line in panel.lines:
            if line.dashed or (line.name.startswith("block") and line is not panel.lines[-1]):
                continue
            remark, doubts = _course(line), sum(map(bool, line.doubts))
            if doubts:
                remark += f"; {DOUBT} in doubt: {doubts} of {len(line.doubts)} values"
                remark += ", this one too" * bool(line.doubts[-1])
            if any(line.bounds):
                remark += f"; {LEAST} lower bounds: {sum(line.bounds)} of {len(line.bounds)}"
            value = f"{LEAST} " * line.bounds[-1] + tables.number(float(line.values[-1]))
            shown.append((_label(panel, line) + suffix, value, remark))
    return shown


def render(found: ReportData, other: ReportData | None, drawn: Drawn, version: str) -> str:
    """The page as text.

    Args:
        found: records of a tracker.
        other: those that they are compared with, if there are any.
        drawn: the figures.
        version: of the paper whose claims are judged.

    Raises:
        MissingExtra: jinja2 or plotly is not installed.
    """
    by_run = dict(list(found.records.groupby("run", sort=False)))
    shown = {run: panels(by_run[run]) for run in found.runs}
    heads = {run: _head(found, run, by_run[run]) for run in found.runs}
    figures = {run: page.on_page(pictures) for run, pictures in drawn.runs.items()}
    sweeps = [found]
    if other is not None:
        sweeps = [found, other]
        scales = scale_pairs(found, other)[0]
        runs = [first_run(side, scale) for side, scale in zip(sweeps, scales, strict=True)]
        both = " and ".join(side.name for side in sweeps)
        names = [side.name for side in sweeps]
        shown = {both: overlay([panels(run) for run in runs], names)} | shown
        ours, theirs = (
            f"{side.name}, {_head(side, run['run'].iloc[0], run)}"
            for side, run in zip(sweeps, runs, strict=True)
        )
        heads[both] = f"Solid: {ours} Dashed: {theirs}"
        figures[both] = page.on_page(drawn.compared)
    judged = {side.name: claims.as_json(side.claims) for side in sweeps}
    return page.template("tracked.html.j2").render(
        title=f"geomfast: {', '.join(found.scales)}",
        notes=drawn.notes,
        missing=drawn.missing,
        runs=list(shown),
        heads=heads,
        tables={run: _rows(own) for run, own in shown.items()},
        marks={run: "; ".join(_marks(own)) for run, own in shown.items()},
        colour_of_doubt=DOUBTFUL["color"],
        figures=figures,
        overview=page.on_page(drawn.overview),
        sweeps=list(judged),
        claims=page.claim_rows(judged, version),
        differences=differences(found.settings, other.settings) if other else [],
        version=version,
        measured=page.measured(found.records),
        settings=readable_settings(found.settings),
        plotly=page.library(),
        data=page.as_is(script_json({run: _chart(own) for run, own in shown.items()})),
    )


def _marks(shown: list[Panel]) -> Iterator[str]:
    """Explanations of the marks that values of a table have."""
    lines = [line for panel in shown for line in panel.lines]
    if any(any(line.doubts) for line in lines):
        yield DOUBT_KEY
    if any(any(line.bounds) for line in lines):
        yield LEAST_KEY


def _head(found: ReportData, run: str, records: pd.DataFrame) -> str:
    cells = found.cells[found.cells["run"] == run]
    names = [task_level(t, v) for t, v in zip(cells["task"], cells["level"], strict=True)]
    samples = samples_of(records[records["level"] > 0])
    return (
        f"{run}: {cells['scale'].iloc[0]}, seed {cells['seed'].iloc[0]}, to step "
        f"{records['step'].max():,}; n = {samples} samples ({', '.join(names)}); "
        f"{cadence(found.settings, run, records)}."
    )


def _label(panel: Panel, line: Line) -> str:
    """The name of a curve without its panel's title beside it."""
    title = panel.title.split(" of every")[0]
    return panel.title if line.name in _IN_TITLE else f"{title}, {line.name}"


def _course(line: Line) -> str:
    """First value of a curve, and its smallest and largest in between."""
    if len(line.values) < 2:
        return f"at step {line.steps[-1]:,.0f}"
    low, high = int(np.argmin(line.values)), int(np.argmax(line.values))
    ends = (
        f"{words} {tables.number(float(line.values[i]))} at {line.steps[i]:,.0f}"
        for words, i in (("smallest", low), ("largest", high))
        if i not in (0, len(line.values) - 1)
    )
    began = f"at step {line.steps[-1]:,.0f}; {tables.number(float(line.values[0]))} at "
    return ", ".join([f"{began}{line.steps[0]:,.0f}", *ends])


def _rows(shown: list[Panel]) -> list[tuple[str, list[str]]]:
    """First, smallest, largest and last value of every curve, each with its step."""
    rows = []
    for panel in shown:
        for line in panel.lines:
            places = (0, int(np.argmin(line.values)), int(np.argmax(line.values)), -1)
            texts = [f"{line.text(i, tables.number)} at {line.steps[i]:,.0f}" for i in places]
            rows.append((_label(panel, line), texts))
    return rows


def _chart(shown: list[Panel]) -> list[dict[str, Any]]:
    """The panels as data of the page's chart, with as many digits as it shows."""

    def plain(values: np.ndarray) -> list[float | None]:
        return [None if math.isnan(v) else float(f"{v:.4g}") for v in values.tolist()]

    return [
        {
            "title": panel.title,
            "unit": panel.unit,
            "log": panel.logarithmic,
            "lines": [
                {name: value for name, value in vars(line).items() if name != "layer"}
                | {"steps": line.steps.astype(int).tolist(), "values": plain(line.values)}
                | {"errors": None if np.isnan(line.errors).all() else plain(line.errors)}
                for line in panel.lines
            ],
        }
        for panel in shown
    ]
