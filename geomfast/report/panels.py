"""All curves of a tracked run by training step, in panels of a figure or of the chart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.llc import llc_values
from geomfast.analysis.others import value_columns
from geomfast.analysis.trajectories import select
from geomfast.analysis.truncation import FIRST
from geomfast.estimators.sampling.rules import BOUND
from geomfast.measures import MeasureSpec, catalog
from geomfast.measures.catalog import measure_of
from geomfast.records import FINAL, layer_depth
from geomfast.records.ranges import ranges
from geomfast.report.colours import BLUE, GREY, LINES, ORANGE, PURPLE, layer_looks, plain_colour
from geomfast.report.curves import DOUBT, LEAST, loss_unit
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
#: Title, unit (the loss's where it is empty), and by measure the name and colour of its line.
_PANELS: tuple[tuple[str, str, dict[str, tuple[str, str]]], ...] = (
    ("RankMe of every layer", "dimensions", {"rankme": ("", BLUE)}),
    ("Loss", "", _LOSSES),
    ("Effective rank of the gradients", "dimensions", _RANKS),
    ("Largest eigenvalue of the Hessian", "", {"hessian_top": ("eigenvalue", BLUE)}),
    ("Trace of the Hessian", "", {"hessian_trace": ("trace", ORANGE)}),
    ("Local learning coefficient", "coefficient", {"llc": ("LLC", PURPLE)}),
)
#: Records about the tracker itself, which no panel shows.
_BESIDE = ("tracker_overhead",)


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: in the legend.
        layer: empty for values of the whole network.
        steps, values, errors: of every value; an error is NaN where none is defined.
        colour: a name that matplotlib and browsers know.
        width: in points.
        dashed: whether the line is.
        doubts: of every value why it is in doubt; empty texts for values that are not.
        bounds: of every value whether it is a lower bound.
    """

    name: str
    layer: str
    steps: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    colour: str
    width: float
    dashed: bool
    doubts: Sequence[str]
    bounds: Sequence[bool]

    def text(self, index: int, show: Any) -> str:
        """One value as text by ``show``, marked where it is in doubt or a lower bound."""
        least = f"{LEAST} " * self.bounds[index]
        return least + show(float(self.values[index])) + f" {DOUBT}" * bool(self.doubts[index])


@dataclass(frozen=True)
class Panel:
    """Curves that share a y axis.

    Attributes:
        title, unit: of the axis.
        lines: one or more.
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
            found.append(Panel(title, unit or loss_unit(run), lines))
    return [*found, *_others(run)]


def overlay(panels: Sequence[list[Panel]], names: Sequence[str]) -> list[Panel]:
    """The panels of two runs over each other, matched by title: solid lines and dashed lines.

    Args:
        panels: those of each run.
        names: of the runs, which go before the names of their lines.
    """
    found: dict[str, Panel] = {}
    for name, own, dashed in zip(names, panels, (False, True), strict=True):
        for panel in own:
            there = found.get(panel.title, replace(panel, lines=[]))
            if there.unit != panel.unit:
                there = replace(there, unit=f"solid: {there.unit}\ndashed: {panel.unit}")
            lines = [
                replace(line, name=f"{name}, {line.name}", dashed=dashed)
                for line in panel.lines
                if not line.dashed
            ]
            found[panel.title] = replace(there, lines=[*there.lines, *lines])
    return list(found.values())


def _others(run: pd.DataFrame) -> list[Panel]:
    """A panel for each scalar that the training loop logged, and each measure not shown above."""
    shown = {name for _, _, measures in _PANELS for name in measures}
    panels: dict[str, Panel] = {}
    for name in sorted(set(run["measure"]) - shown):
        spec = catalog().specs.get(measure_of(name) or "")
        if spec and name in value_columns(spec):
            label, unit = spec_texts(spec)
            panels[spec.name] = Panel(label, unit, spec_lines(run, spec))
        elif not (spec or name in _BESIDE or name in ranges()):
            panels[name] = Panel(name, "", _lines(run, name, name, BLUE))
        # All else are diagnostics of other values.
    return [panel for panel in panels.values() if panel.lines]


def spec_texts(spec: MeasureSpec) -> tuple[str, str]:
    """Label and unit of a measure, each cut to one line that fits into a figure."""
    return labels([spec.label], _LONGEST)[spec.label], labels([spec.unit], _LONGEST)[spec.unit]


def spec_lines(run: pd.DataFrame, spec: MeasureSpec) -> list[Line]:
    """A measure's curves, by column and layer, with a colour per column.

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
    """A measure's curves, by layer."""
    rows = select(run, measure)
    doubts: dict[Any, str] = {}
    if measure == "llc":
        found = llc_values(run)
        doubts = dict(zip(found["step"], found["doubt"], strict=True))
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
        look |= {"dashed": measure.endswith(FIRST)}
        why = [doubts.get(step, "") for step in part["step"]]
        bounds = [one == BOUND for one in why]
        why = ["" if bound else one for one, bound in zip(why, bounds, strict=True)]
        lines.append(Line(name or layer, layer, *columns, doubts=why, bounds=bounds, **look))
    return lines


def _without_repetition(lines: list[Line]) -> list[Line]:
    """The lines without dashed ones that equal another: truncation leaves small models whole."""
    whole = [line for line in lines if not line.dashed]
    return [
        line
        for line in lines
        if not line.dashed or not any(np.array_equal(line.values, x.values) for x in whole)
    ]
