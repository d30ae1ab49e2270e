"""Every measure of a run in one figure, and the similarity of its layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.trajectories import select
from geomfast.measures import MeasureSpec, catalog
from geomfast.records import FINAL, layer_depth
from geomfast.report.axes import STEPS, log_axis, step_axis
from geomfast.report.colours import BLACK, COLOUR, VERMILLION, plain_colour
from geomfast.report.curves import samples_of
from geomfast.report.panels import spec_texts
from geomfast.report.style import band, canvas, columns_for, handle, head, legend, panels_of, styled

#: Measures below which a run has no need of an overview.
_LEAST = 4
#: Letters of a panel's heading.
_HEADING = 26


@styled
def glance(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """A small panel per measure: median over task-levels, quartiles, and the events of the run.

    None for fewer than four measures.
    """
    rows = {spec.name: _of_run(run, spec) for spec in catalog().specs.values()}
    shown = [spec for spec in catalog().specs.values() if not rows[spec.name].empty]
    if len(shown) < _LEAST:
        return None
    columns = columns_for(len(shown))
    height = math.ceil(len(shown) / columns)
    figure, grid = canvas(
        3.0 * columns + 0.9, 1.75 * height + 2.0, height, columns, left=0.6, right=0.3, top=1.05,
        bottom=0.95, wspace=0.26, hspace=0.52,
    )  # fmt: skip
    last = float(run["step"].max())
    for spec, axes, _, lowest in panels_of(grid, shown):
        values = rows[spec.name]
        grouped = values.groupby("step")["value"]
        quartiles = {"low": 0.25, "middle": 0.5, "high": 0.75}
        by_step = pd.DataFrame({name: grouped.quantile(q) for name, q in quartiles.items()})
        band(axes, by_step, plain_colour(spec.colour))
        step_axis(axes, last)
        if spec.logarithmic and by_step["low"].min() > 0:
            log_axis(axes)
        axes.set_title(_short(spec_texts(spec)[0]), loc="left")
        _rug(axes, table["floor_step"].where(table["collapsed"]), BLACK, 0.0)
        _rug(axes, table["emerged_step"], VERMILLION, 0.06)
        if lowest:
            axes.set_xlabel(STEPS)
    legend(
        figure,
        [
            handle("floor of RankMe of a task-level", linestyle="", marker="|", color=BLACK),
            handle("emergence of a task-level", linestyle="", marker="|", color=COLOUR["accuracy"]),
        ],
    )
    text = (
        f"{run['run'].iloc[0]}; n = {samples_of(run[run['level'] > 0])} samples per task-level; "
        "lines: median over task-levels, of the final state where there are layers (CKA: of the "
        "first block); bands: quartiles"
    )
    head(figure, "Geometry at a glance", text, 0.6)
    return figure


@styled
def layer_similarity(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """CKA of every two layers at four checkpoints, median over task-levels.

    None where it was not measured, or of fewer than three layers.
    """
    rows = run[run["measure"].eq("cka") | run["measure"].str.startswith("cka_")]
    layers = sorted(set(rows["layer"]), key=layer_depth)
    if len(layers) < 3:
        return None
    steps = sorted(set(rows["step"]))
    moments = _moments(steps, table)
    wide = 2.15 * len(moments) + 2.0
    figure, grid = canvas(
        max(wide, 9.0), 3.7, 1, len(moments), left=0.85, right=1.3, top=1.25, bottom=0.75,
        wspace=0.14,
    )  # fmt: skip
    image = None
    for number, (step, name) in enumerate(moments):
        axes = grid[0, number]
        image = axes.imshow(
            _matrix(rows[rows["step"] == step], layers), cmap="cividis", vmin=0, vmax=1,
            origin="lower", aspect="equal",
        )  # fmt: skip
        axes.set_title(f"{name}\nstep {step:,}", loc="left")
        axes.set_xticks(range(len(layers)), layers, rotation=90)
        axes.set_yticks(range(len(layers)), layers if number == 0 else [])
        axes.tick_params(length=0)
    width, height = figure.get_size_inches()
    bar = figure.colorbar(
        image, cax=figure.add_axes((1 - 1.1 / width, 0.75 / height, 0.15 / width, 1.5 / height))
    )
    bar.outline.set_visible(False)
    bar.set_label("CKA")
    text = (
        f"{run['run'].iloc[0]}; n = {samples_of(rows)} samples per task-level; median over "
        "task-levels"
    )
    head(figure, "Which layers are alike", text, 0.85)
    return figure


def _of_run(run: pd.DataFrame, spec: MeasureSpec) -> pd.DataFrame:
    """Finite values of a measure, of its own name and of the final state, else the first layer."""
    rows = select(run, spec.name)
    rows = rows[np.isfinite(rows["value"].to_numpy(dtype=float)) & (rows["level"] > 0)]
    layers = sorted(set(rows["layer"]), key=layer_depth)
    return rows[rows["layer"].isin(["", FINAL] if {"", FINAL} & set(layers) else layers[:1])]


def _rug(axes: Any, steps: pd.Series, colour: str, height: float) -> None:
    """Marks of events on the axis of steps."""
    there = steps.dropna().to_numpy(dtype=float)
    axes.plot(
        there, np.full(len(there), 0.03 + height), transform=axes.get_xaxis_transform(),
        linestyle="", marker="|", color=colour, markersize=6, clip_on=False, zorder=4,
    )  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= _HEADING else text[: _HEADING - 1] + "…"


def _moments(steps: list[int], table: pd.DataFrame) -> list[tuple[int, str]]:
    """Checkpoints to show: first, floor, emergence, last; those that there are, each once."""
    wanted = [
        (steps[0], "first"),
        (table["floor_step"].where(table["collapsed"]).median(), "floor of RankMe"),
        (table["emerged_step"].median(), "emergence"),
        (steps[-1], "last"),
    ]
    found: dict[int, str] = {}
    for step, name in wanted:
        if not math.isnan(step):
            nearest = min(steps, key=lambda one: abs(one - step))
            found.setdefault(nearest, name)
    return sorted(found.items())


def _matrix(rows: pd.DataFrame, layers: list[str]) -> np.ndarray:
    """Median over task-levels of every two layers' CKA, (L, L)."""
    names = {f"cka_{layer.replace(' ', '_')}": i for i, layer in enumerate(layers)}
    names["cka"] = len(layers) - 1
    found = np.eye(len(layers))
    medians = rows.groupby(["layer", "measure"])["value"].median()
    for key, value in medians.items():
        layer, measure = key  # pyright: ignore[reportGeneralTypeIssues]
        i, j = layers.index(layer), names.get(str(measure))
        if j is not None:
            found[i, j] = found[j, i] = value
    return found
