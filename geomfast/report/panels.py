"""All curves of one run by step, in panels: for a figure and for the page's chart.

A run that was tracked is shown by these, as what it is measured for is not the paper's claims.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.others import value_columns
from geomfast.analysis.trajectories import select
from geomfast.analysis.truncation import FIRST
from geomfast.measures import MeasureSpec, catalog
from geomfast.measures.catalog import measure_of
from geomfast.records import FINAL, layer_depth
from geomfast.records.ranges import ranges
from geomfast.report.colours import BLUE, GREY, LINES, ORANGE, PURPLE, layer_looks, plain_colour
from geomfast.report.names import labels

#: Above this ratio of largest to smallest a panel is logarithmic.
_WIDE = 4.0
#: Letters of a label that a measure of another package may have.
_LONGEST = 48
_FIRST_50K = "first 50,000 parameters"
_LOSSES = {"loss": ("evaluation (samples)", BLUE), "train_loss": ("training batch", GREY)}
_RANKS = {
    "fisher_rank": ("Fisher", BLUE),
    "fisher_rank" + FIRST: (f"Fisher, {_FIRST_50K}", BLUE),
    "gradient_covariance_rank": ("covariance", ORANGE),
    "gradient_covariance_rank" + FIRST: (f"covariance, {_FIRST_50K}", ORANGE),
}
#: Title, unit, and by measure the name and colour of its line.
_PANELS: tuple[tuple[str, str, dict[str, tuple[str, str]]], ...] = (
    ("RankMe of every layer", "dimensions", {"rankme": ("", BLUE)}),
    ("Loss", "mean", _LOSSES),
    ("Effective rank of the gradients", "dimensions", _RANKS),
    ("Largest eigenvalue of the Hessian", "loss", {"hessian_top": ("eigenvalue", BLUE)}),
    ("Trace of the Hessian", "loss", {"hessian_trace": ("trace", ORANGE)}),
    ("Local learning coefficient", "coefficient", {"llc": ("LLC", PURPLE)}),
)


#: Of the tracker itself.
_BESIDE = ("tracker_overhead",)


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: as the legend has it.
        layer: it is of; empty for none.
        steps, values, errors: of every value; an error is NaN where none is defined.
        colour: as matplotlib and browsers read it.
        width: in points.
        dashed: whether it is.
    """

    name: str
    layer: str
    steps: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    colour: str
    width: float
    dashed: bool


@dataclass(frozen=True)
class Panel:
    """Curves on one y axis.

    Attributes:
        title, unit: of the axis.
        lines: at least one.
    """

    title: str
    unit: str
    lines: list[Line]

    @property
    def logarithmic(self) -> bool:
        """Whether its values are positive and differ by much."""
        values = np.concatenate([line.values for line in self.lines])
        return bool(values.min() > 0 and values.max() > _WIDE * values.min())


def panels(run: pd.DataFrame) -> list[Panel]:
    """The panels for which a run has values.

    Args:
        run: records of one run; several sets of samples have panels of their own.
    """
    sets = [*dict.fromkeys(run.loc[run["level"] > 0, "task"])]
    if len(sets) > 1:
        whole = run["level"] == 0
        of_sets = [
            replace(panel, title=f"{name}: {panel.title}")
            for name in sets
            for panel in panels(
                run[(run["task"] == name) | (whole & run["measure"].eq("train_loss"))]
            )
        ]
        return [*of_sets, *_others(run[whole])]
    found = []
    for title, unit, measures in _PANELS:
        lines = [line for name, look in measures.items() for line in _lines(run, name, *look)]
        lines = _without_repetition(lines)
        if lines:
            found.append(Panel(title, unit, lines))
    return [*found, *_others(run)]


def _others(run: pd.DataFrame) -> list[Panel]:
    """A panel for each number of the loop's own, and each measure that no panel above has."""
    shown = {name for _, _, measures in _PANELS for name in measures}
    panels: dict[str, Panel] = {}
    for name in sorted(set(run["measure"]) - shown):
        spec = catalog().specs.get(measure_of(name) or "")
        if spec and name in value_columns(spec):
            label, unit = spec_texts(spec)
            panels[spec.name] = Panel(label, unit, spec_lines(run, spec))
        elif not (spec or name in _BESIDE or name in ranges()):
            panels[name] = Panel(name, "", _lines(run, name, name, BLUE))
        # Else it only says how another value was found, or how the run went.
    return [panel for panel in panels.values() if panel.lines]


def spec_texts(spec: MeasureSpec) -> tuple[str, str]:
    """Label and unit of a measure, of any package: one line of a length that has room."""
    return labels([spec.label], _LONGEST)[spec.label], labels([spec.unit], _LONGEST)[spec.unit]


def spec_lines(run: pd.DataFrame, spec: MeasureSpec) -> list[Line]:
    """A measure's curves: a layer after the other; of several columns a colour for each.

    Args:
        run: records of one run, of one set of samples.
        spec: of the measure.
    """
    label, columns = spec_texts(spec)[0], value_columns(spec)
    if len(columns) == 1:
        return _lines(run, columns[0], "" if spec.per_layer else label, plain_colour(spec.colour))
    names = {name: name.removeprefix(f"{spec.name}_") for name in columns}
    looks = zip(names.items(), itertools.cycle(LINES), strict=False)
    return [line for (name, shown), colour in looks for line in _lines(run, name, shown, colour)]


def _lines(run: pd.DataFrame, measure: str, name: str, colour: str) -> list[Line]:
    """A measure's curves, a layer after the other."""
    rows = select(run, measure)
    layers = sorted(set(rows["layer"]), key=layer_depth)
    looks, lines = layer_looks(layers), []
    for layer in layers:
        part = rows[rows["layer"] == layer]
        look: dict[str, Any] = {"colour": colour, "width": 1.6}
        if layer not in ("", FINAL):
            look = {"colour": looks[layer][1], "width": 1.0}
        elif layer == FINAL:
            look["width"] = 2.2
        columns = [part[x].to_numpy(dtype=float) for x in ("step", "value", "stderr")]
        dashed = measure.endswith(FIRST)
        lines.append(Line(name or layer, layer, *columns, dashed=dashed, **look))
    return lines


def _without_repetition(lines: list[Line]) -> list[Line]:
    """Less the dashed ones that are another: of a model with fewer parameters they all are."""
    whole = [line for line in lines if not line.dashed]
    return [
        line
        for line in lines
        if not line.dashed or not any(np.array_equal(line.values, x.values) for x in whole)
    ]
