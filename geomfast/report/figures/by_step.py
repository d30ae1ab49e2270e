"""Figures of all measures of a tracked run, or of two, by training step."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd

from geomfast.records import FINAL
from geomfast.report.axes import STEPS, log_axis, step_axis
from geomfast.report.colours import BOUNDED, DASHED, DOUBTFUL
from geomfast.report.curves import samples_of
from geomfast.report.data import ReportData
from geomfast.report.extras import need
from geomfast.report.panels import Line, Panel, overlay, panels
from geomfast.report.style import canvas, handle, head, styled

#: Most values of a line that are marked, as nothing between them was measured.
_MARKED = 40
#: Most lines that a legend names; of more it names the first, the last but one and the last.
_NAMED = 7


@styled
def by_step(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """A panel per kind of measure, all on one axis of steps.

    None where nothing has a value.
    """
    samples = samples_of(run[run["level"] > 0])
    text = f"{run['run'].iloc[0]}; n = {samples} samples; {run['step'].nunique()} steps measured"
    return _figure(panels(run), f"What was measured of {run['scale'].iloc[0]}", text)


@styled
def by_step_of_both(ours: ReportData, other: ReportData, scales: tuple[str, str]) -> Any:
    """The first run of either folder at its scale, over each other."""
    sides, names = (ours, other), (ours.name, other.name)
    runs = [first_run(side, scale) for side, scale in zip(sides, scales, strict=True)]
    text = "; ".join(
        f"{line}: {name}, run {run['run'].iloc[0]}, n = {samples_of(run[run['level'] > 0])} samples"
        for line, name, run in zip(("solid", "dashed"), names, runs, strict=True)
    )
    found = overlay([panels(run) for run in runs], names)
    return _figure(found, f"What was measured of {' and '.join(dict.fromkeys(scales))}", text)


def first_run(found: ReportData, scale: str) -> pd.DataFrame:
    """Records of the first run of a scale."""
    run = found.cells.loc[found.cells["scale"] == scale, "run"].iloc[0]
    return found.records[found.records["run"] == run]


def _figure(found: list[Panel], title: str, text: str) -> Any:
    if not found:
        return None
    count = len(found)
    last = max(float(line.steps.max()) for panel in found for line in panel.lines)
    figure, grid = canvas(
        10.2, 1.75 * count + 1.25, count, 1, left=1.0, right=2.3, top=0.95, bottom=0.55,
        hspace=0.42,
    )  # fmt: skip
    for axes, panel in zip(grid[:, 0], found, strict=True):
        step_axis(axes, last)
        _draw(axes, panel)
    grid[-1, 0].set_xlabel(STEPS)
    head(figure, title, text, 1.0)
    return figure


def draw_lines(axes: Any, lines: list[Line]) -> None:
    """Draw curves, errors as bands, and marks of values that are few, in doubt or lower bounds."""
    for line in lines:
        marked = {"marker": ".", "markersize": 4} if len(line.steps) <= _MARKED else {}
        axes.plot(
            line.steps, line.values, color=line.colour, linewidth=line.width,
            linestyle=DASHED if line.dashed else "-", **marked,
        )  # fmt: skip
        if not np.isnan(line.errors).all():
            ends = line.values - line.errors, line.values + line.errors
            axes.fill_between(line.steps, *ends, color=line.colour, alpha=0.18, linewidth=0)
        for which, look in ((line.doubts, DOUBTFUL), (line.bounds, BOUNDED)):
            marked = np.array(which, dtype=bool)
            if marked.any():
                axes.plot(line.steps[marked], line.values[marked], linestyle="", **look)


def _draw(axes: Any, panel: Panel) -> None:
    draw_lines(axes, panel.lines)
    if panel.logarithmic:
        log_axis(axes)
    else:
        axes.yaxis.set_major_locator(need("matplotlib.ticker").MaxNLocator(5))
    axes.set_title(panel.title, loc="left")
    lines = (textwrap.fill(line, 20) for line in panel.unit.split("\n"))
    axes.set_ylabel("\n".join(lines), fontsize=8)
    _legend(axes, _named(panel.lines))


def _named(lines: list[Line]) -> list[Line]:
    return lines if len(lines) <= _NAMED else [lines[0], *lines[-2:]]


def _legend(axes: Any, lines: list[Line]) -> None:
    """Write a legend right of the panel."""
    handles = [
        handle(
            "final state" if line.name == FINAL else line.name.replace(", ", ",\n"),
            color=line.colour, linewidth=line.width, linestyle=DASHED if line.dashed else "-",
        )
        for line in lines
    ]  # fmt: skip
    if any(any(line.doubts) for line in lines):
        handles.append(handle("in doubt", linestyle="", **DOUBTFUL))
    if any(any(line.bounds) for line in lines):
        handles.append(handle("lower bound", linestyle="", **BOUNDED))
    axes.legend(
        handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8
    )
