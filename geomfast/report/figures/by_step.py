"""Figure of everything that was measured of a run, by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from geomfast.records import FINAL
from geomfast.report.axes import STEPS, plain_numbers, step_axis
from geomfast.report.colours import DASHED
from geomfast.report.curves import samples_of
from geomfast.report.extras import need
from geomfast.report.panels import Line, Panel, panels
from geomfast.report.style import canvas, handle, head, styled

#: Up to so many values each is marked, as what lies between them was not measured.
_MARKED = 40
#: Lines that a legend names; of more, only the first, the last but one and the last.
_NAMED = 7


@styled
def by_step(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """A panel for every kind of measure, all on one axis of steps.

    None where nothing has a value.
    """
    found = panels(run)
    if not found:
        return None
    count, last = len(found), float(run["step"].max())
    figure, grid = canvas(
        10.2, 1.75 * count + 1.25, count, 1, left=0.85, right=2.3, top=0.95, bottom=0.55,
        hspace=0.42,
    )  # fmt: skip
    for axes, panel in zip(grid[:, 0], found, strict=True):
        step_axis(axes, last)
        _draw(axes, panel)
    grid[-1, 0].set_xlabel(STEPS)
    samples = samples_of(run[run["level"] > 0])
    text = f"{run['run'].iloc[0]}; n = {samples} samples; {run['step'].nunique()} steps measured"
    head(figure, f"What was measured of {run['scale'].iloc[0]}", text, 0.85)
    return figure


def draw_lines(axes: Any, lines: list[Line]) -> None:
    """Curves with their errors as bands; the values are marked where they are few."""
    for line in lines:
        marked = {"marker": ".", "markersize": 4} if len(line.steps) <= _MARKED else {}
        axes.plot(
            line.steps, line.values, color=line.colour, linewidth=line.width,
            linestyle=DASHED if line.dashed else "-", **marked,
        )  # fmt: skip
        if not np.isnan(line.errors).all():
            ends = line.values - line.errors, line.values + line.errors
            axes.fill_between(line.steps, *ends, color=line.colour, alpha=0.18, linewidth=0)


def _draw(axes: Any, panel: Panel) -> None:
    draw_lines(axes, panel.lines)
    if panel.logarithmic:
        axes.set_yscale("log", subs=[2, 5])
        plain_numbers(axes.yaxis, minor=True)
    else:
        axes.yaxis.set_major_locator(need("matplotlib.ticker").MaxNLocator(5))
    axes.set_title(panel.title, loc="left")
    axes.set_ylabel(panel.unit)
    _legend(axes, _named(panel.lines))


def _named(lines: list[Line]) -> list[Line]:
    return lines if len(lines) <= _NAMED else [lines[0], *lines[-2:]]


def _legend(axes: Any, lines: list[Line]) -> None:
    """Beside the panel, where no curve can be."""
    handles = [
        handle(
            "final state" if line.name == FINAL else line.name.replace(", ", ",\n"),
            color=line.colour, linewidth=line.width, linestyle=DASHED if line.dashed else "-",
        )
        for line in lines
    ]  # fmt: skip
    axes.legend(
        handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8
    )
