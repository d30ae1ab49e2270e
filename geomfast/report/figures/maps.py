"""Maps of layers by training step, one panel per task."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.probes import MEASURE as PROBE
from geomfast.measures.kinds.cka import AT_STEP
from geomfast.records import layer_depth
from geomfast.report.axes import STEPS, step_axis
from geomfast.report.colours import DASHED, VERMILLION
from geomfast.report.curves import Curves, caption, curves, samples_of
from geomfast.report.style import canvas, columns_for, head, panels_of, styled

#: Most earlier checkpoints that a map has rows for.
_MOST_EARLIER = 24


@styled
def layer_map(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """RankMe over its initial value by layer and step (log scale), median over levels."""
    figure, bar = _map(curves(run, "rankme"), _log_ratio, run, None, "PuOr", (-2, 2))
    if bar is not None:
        bar.set_ticks([-2, -1, 0, 1, 2], labels=["1/4", "1/2", "1", "2", "4"])
        bar.set_label("RankMe over its initial value")
    head(figure, "Where the representation collapses", f"{caption(run)}; median over levels", 0.85)
    return figure


@styled
def tracked_map(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """RankMe of the layers of a tracked run over its first value, on a scale that fits its changes.

    None for fewer than three layers, whose curves show as much.
    """
    found = curves(run, "rankme")
    if max((len(layers) for layers in found.values()), default=0) < 3:
        return None
    changes = np.concatenate(
        [_log_ratio(values) for layers in found.values() for _, values in layers.values()]
    )
    ends = (1.25, 1.5, 2.0, 4.0, 8.0, 16.0)
    most = next((end for end in ends if abs(changes).max() <= np.log2(end)), ends[-1])
    figure, bar = _map(found, _log_ratio, run, None, "PuOr", (-np.log2(most), np.log2(most)))
    ticks = np.log2([1 / most, 1 / np.sqrt(most), 1.0, np.sqrt(most), most])
    bar.set_ticks(ticks, labels=[f"{2.0**tick:.2g}" for tick in ticks])
    bar.set_label("RankMe over its initial value")
    samples = samples_of(run[run["measure"] == "rankme"])
    text = f"{run['run'].iloc[0]}; n = {samples} samples; {run['step'].nunique()} steps measured"
    head(figure, "RankMe of every layer, over its first value", text, 0.85)
    return figure


@styled
def probe_map(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """Accuracy of the linear probe by layer and step, median over levels.

    None where no probe was taken.
    """
    found = curves(run, PROBE)
    if not found:
        return None
    figure, bar = _map(found, lambda values: values, run, table, "cividis", (0, 1))
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25%", "50%", "75%", "100%"])
    bar.set_label("held-out accuracy of the probe")
    samples = samples_of(run[run["measure"] == PROBE])
    text = (
        f"{run['run'].iloc[0]}; n = {samples} samples per probe; median over levels; dashed: "
        "emergence of behaviour, median over levels"
    )
    head(figure, "Where a linear probe has the answer", text, 0.85)
    return figure


@styled
def past_map(run: pd.DataFrame, table: pd.DataFrame) -> Any:
    """CKA of the final state with itself at earlier checkpoints, median over levels.

    None where it was compared with fewer than two.
    """
    earlier = [
        (int(name.removeprefix(AT_STEP)), str(name))
        for name in run["measure"].unique()
        if str(name).startswith(AT_STEP)
    ]
    names = {f"step {step:,}": name for step, name in sorted(earlier)[:_MOST_EARLIER]}
    if len(names) < 2:
        return None
    found: Curves = {}
    for label, name in names.items():
        for cell, layers in curves(run, name).items():
            found.setdefault(cell, {})[label] = next(iter(layers.values()))
    rows = [*names]
    figure, bar = _map(found, lambda values: values, run, table, "cividis", (0, 1), rows)
    bar.set_label("CKA")
    samples = samples_of(run[run["measure"] == "cka"])
    text = (
        f"{run['run'].iloc[0]}; n = {samples} samples per task-level; final state at each step "
        "against that at the step of its row; median over levels; dashed: emergence"
    )
    head(figure, "When the final state becomes what it is", text, 0.85)
    return figure


def _map(
    found: Curves,
    change: Any,
    run: pd.DataFrame,
    table: pd.DataFrame | None,
    colours: str,
    limits: tuple[float, float],
    rows_named: list[str] | None = None,
) -> tuple[Any, Any]:
    """Panels by task with a common colour bar, and emergence as a line if there is a table.

    Args:
        rows_named: rows from bottom to top; None for the layers from first to last.
    """
    tasks = list(dict.fromkeys(task for task, _ in found))
    columns = columns_for(len(tasks))
    rows = max(math.ceil(len(tasks) / columns), 1)
    layers = rows_named or sorted({n for c in found.values() for n in c}, key=layer_depth)
    width = max(3.1 * columns + 1.6, 9.0)
    figure, grid = canvas(
        width, (0.9 + 0.28 * len(layers)) * rows + 1.7, rows, columns, left=0.85, right=1.3,
        top=1.05, bottom=0.6, wspace=0.12, hspace=1.0 / (0.28 * len(layers) + 0.35),
    )  # fmt: skip
    last, image = float(run["step"].max()), None
    for task, axes, leftmost, lowest in panels_of(grid, tasks):
        edges, values = _cells(found, task, layers, change)
        image = axes.pcolormesh(
            edges, np.arange(len(layers) + 1) + 0.5, values, cmap=colours, vmin=limits[0],
            vmax=limits[1], rasterized=True,
        )  # fmt: skip
        axes.set_yticks(range(1, len(layers) + 1), layers if leftmost else [])
        axes.tick_params(axis="y", length=0)
        axes.set_title(task, loc="left")
        step_axis(axes, last)
        if table is not None:
            emerged = table.loc[table["task"] == task, "emerged_step"].median()
            axes.axvline(emerged, color="white", linewidth=2.4)
            axes.axvline(emerged, color=VERMILLION, linewidth=1.4, linestyle=DASHED)
        if lowest:
            axes.set_xlabel(STEPS)
    if image is None:
        return figure, None
    _, height = figure.get_size_inches()
    place = (1 - 1.1 / width, 0.6 / height, 0.15 / width, 1 - 1.65 / height)
    ends = "both" if limits[0] < 0 else "neither"
    bar = figure.colorbar(image, cax=figure.add_axes(place), extend=ends)
    bar.outline.set_visible(False)
    return figure, bar


def _log_ratio(values: np.ndarray) -> np.ndarray:
    return np.log2(values / values[0])


def _cells(
    found: Curves, task: str, layers: list[str], change: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the steps (s + 1) and values, median over levels, (layers, s)."""
    series = {
        (layer, level): pd.Series(change(values), index=steps)
        for (name, level), by_layer in found.items()
        if name == task
        for layer, (steps, values) in by_layer.items()
    }
    wide = pd.DataFrame(series).sort_index()
    present = set(wide.columns.get_level_values(0))
    medians = [
        np.array(wide[layer].T.median()) if layer in present else np.full(len(wide), np.nan)
        for layer in layers
    ]
    # A checkpoint fills the space up to halfway to its neighbours, as seen on the log axis.
    place = np.log1p(wide.index.to_numpy(dtype=float))
    middle = (place[1:] + place[:-1]) / 2
    edges = np.expm1(np.concatenate([place[:1], middle, place[-1:] + 1e-3]))
    return edges, np.array(medians)
