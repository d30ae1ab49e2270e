"""The report of what a tracker recorded: its curves first, and the claims that they decide."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.claim import NOT_ENOUGH
from geomfast.report import claims, page, tables
from geomfast.report.chart import script_json
from geomfast.report.curves import samples_of
from geomfast.report.data import ReportData
from geomfast.report.drawing import Drawn
from geomfast.report.extras import need
from geomfast.report.panels import Line, Panel, panels
from geomfast.report.settings import cadence, shown_settings
from geomfast.testbed.tasks.names import task_level

#: Names of curves that are all of their panel, whose title says it.
_IN_TITLE = ("eigenvalue", "trace", "LLC")


def lines(found: ReportData) -> list[tuple[str, str, str]]:
    """Label, value and remark of the key numbers: where every curve of the first run ended."""
    (first, *more) = found.runs
    suffix = f", {first}" if more else ""
    shown = []
    for panel in panels(found.records[found.records["run"] == first]):
        for line in panel.lines:
            if line.dashed or (line.name.startswith("block") and line is not panel.lines[-1]):
                continue
            value = tables.number(float(line.values[-1]))
            shown.append((_label(panel, line) + suffix, value, _course(line)))
    return shown


def render(found: ReportData, drawn: Drawn, version: str) -> str:
    """The page as text.

    Args:
        found: what a tracker recorded.
        drawn: the figures.
        version: of the paper whose claims are judged.

    Raises:
        MissingExtra: jinja2 or plotly is not installed.
    """
    Markup = need("markupsafe").Markup
    judged = claims.as_json(found.claims)
    by_run = dict(list(found.records.groupby("run", sort=False)))
    shown = {run: panels(by_run[run]) for run in found.runs}
    return page.template("tracked.html.j2").render(
        title=f"geomfast: {', '.join(found.scales)}",
        notes=drawn.notes,
        runs=found.runs,
        heads={run: _head(found, run, by_run[run]) for run in found.runs},
        tables={run: _rows(shown[run]) for run in found.runs},
        figures={run: page.on_page(pictures) for run, pictures in drawn.runs.items()},
        overview=page.on_page(drawn.overview),
        claims=[claims.row(one, version) for one in judged if one["verdict"] != NOT_ENOUGH],
        undecided=[claims.row(one, version) for one in judged if one["verdict"] == NOT_ENOUGH],
        version=version,
        measured=page.measured(found.records),
        settings=shown_settings(found.settings),
        plotly=Markup(need("plotly.offline").get_plotlyjs()),
        data=Markup(script_json({run: _chart(shown[run]) for run in found.runs})),
    )


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
    """What a curve is called without the panel's title beside it."""
    return (
        panel.title
        if line.name in _IN_TITLE
        else f"{panel.title.split(' of every')[0]}, {line.name}"
    )


def _course(line: Line) -> str:
    """Where a curve began, and its ends on the way."""
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
    """Of every curve: first value, smallest, largest and last, each with its step."""
    rows = []
    for panel in shown:
        for line in panel.lines:
            places = (0, int(np.argmin(line.values)), int(np.argmax(line.values)), -1)
            texts = [
                f"{tables.number(float(line.values[i]))} at {line.steps[i]:,.0f}" for i in places
            ]
            rows.append((_label(panel, line), texts))
    return rows


def _chart(shown: list[Panel]) -> list[dict[str, Any]]:
    """The panels as the page's chart draws them; four digits draw the same curve."""

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
