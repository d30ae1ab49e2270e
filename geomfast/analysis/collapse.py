"""Collapse of the representation and its recovery.

RankMe of a layer first falls below its value at initialisation, to a floor, and later rises above
it (arXiv:2602.15997).  The definitions of floor, half-collapse and recovery are ours.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.remember import once
from geomfast.analysis.trajectories import TRAJECTORY, first_held, in_order, trajectories
from geomfast.records import layer_depth

#: A layer whose floor is less than this share below its initial value has not collapsed, as far
#: as the order of layers goes: half of so small a fall is within the noise of 200 samples.
MIN_DEPTH = 0.02

_FALL = [*TRAJECTORY, "layer", "initial", "floor", "floor_step", "depth"]
COLLAPSE_COLUMNS = [*_FALL, "recovery_step", "exceeded_step", "final", "collapsed", "recovered"]
COLLAPSE_COLUMNS += ["exceeded", "checkpoints"]
HALF_COLUMNS = [*_FALL, "half_step", "half_after", "collapsed", "checkpoints"]


def floor_of(steps: np.ndarray, values: np.ndarray) -> tuple[int, dict[str, float]]:
    """Floor of one trajectory: its minimum after the first checkpoint, the earliest on a tie.

    Args:
        steps: (n,) ascending.
        values: (n,).

    Returns:
        Index of the floor, and ``initial``, ``floor``, ``floor_step`` and ``depth`` = 1 - floor /
        initial (0 where that is 0); index 0 and NaN for all but ``initial`` with fewer than 2
        checkpoints.
    """
    initial = float(values[0])
    if len(steps) < 2:
        nothing = dict.fromkeys(("floor", "floor_step", "depth"), math.nan)
        return 0, {"initial": initial, **nothing}
    index = 1 + int(np.argmin(values[1:]))
    floor = float(values[index])
    # Of a network that gives zeros only there is no rank to lose.
    depth = 1.0 - floor / initial if initial else 0.0
    fall = {"floor": floor, "floor_step": float(steps[index]), "depth": depth}
    return index, {"initial": initial, **fall}


@once
def collapse(
    records: pd.DataFrame,
    *,
    layer: str | None = "final",
    measure: str = "rankme",
    recovered: float = 0.5,
    persistence: int = 3,
) -> pd.DataFrame:
    """Initial value, floor and recovery of every trajectory.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        layer: layer label; all layers when None.
        measure: any measure of a layer.
        recovered: share of what was lost that must be back to count as recovered.
        persistence: for how many consecutive checkpoints, or to the end of the run.

    Returns:
        One row per run, scale, seed, task, level and layer: ``initial`` (first checkpoint),
        ``floor`` and ``floor_step`` (minimum over the whole run after the first checkpoint),
        ``depth`` = 1 - floor / initial, ``collapsed`` (floor < initial), ``recovery_step`` (first
        checkpoint after the floor from which at least ``recovered`` of initial - floor is back;
        NaN if never or if there was no collapse), ``exceeded_step`` (the same for rising above the
        initial value), ``recovered``, ``exceeded``, ``final`` (last value) and ``checkpoints``.
        With a single checkpoint floor and depth are NaN.

    Raises:
        ValueError: ``recovered`` is not in (0, 1] or ``persistence`` is below 1.
    """
    if not 0.0 < recovered <= 1.0:
        raise ValueError(f"recovered must be in (0, 1], got {recovered}")
    if persistence < 1:
        raise ValueError(f"persistence must be at least 1, got {persistence}")
    rows = []
    for cell, steps, values in trajectories(records, measure, layer):
        index, fall = floor_of(steps, values)
        initial, floor = fall["initial"], fall["floor"]
        recovery = exceeded = math.nan
        if floor < initial:
            after = values[index + 1 :]
            later = steps[index + 1 :]
            recovery = _step_of(after >= floor + recovered * (initial - floor), later, persistence)
            exceeded = _step_of(after > initial, later, persistence)
        later_on = {"recovery_step": recovery, "exceeded_step": exceeded}
        flags = {"collapsed": floor < initial, "recovered": not math.isnan(recovery)}
        flags["exceeded"] = not math.isnan(exceeded)
        last = {"final": float(values[-1]), "checkpoints": len(steps)}
        rows.append(cell | fall | later_on | flags | last)
    return _by_depth(rows, COLLAPSE_COLUMNS)


def _step_of(flags: np.ndarray, steps: np.ndarray, persistence: int) -> float:
    """Step from which flags hold for ``persistence`` checkpoints or to the end; NaN if never."""
    held = first_held(flags, persistence, to_end=True)
    return math.nan if held is None else float(steps[held])


@once
def half_collapse(
    records: pd.DataFrame,
    *,
    measure: str = "rankme",
    min_depth: float = MIN_DEPTH,
    until: int | None = None,
    interpolate: bool = False,
) -> pd.DataFrame:
    """When each layer has fallen half of the way from its initial value to its floor.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        measure: any measure of a layer.
        min_depth: a layer whose depth is below this has not collapsed; its ``half_step`` is NaN.
        until: ignore checkpoints after this step when looking for the floor; None for the whole
            run.
        interpolate: place the crossing on the straight line between the two checkpoints around
            it.  Off by default: it resolves ties between layers by a fraction of the distance
            between checkpoints, which is finer than what was measured.

    Returns:
        One row per run, scale, seed, task, level and layer: ``initial``, ``floor``,
        ``floor_step``, ``depth``, ``half_step`` (first checkpoint, never after the floor, at which
        the value is at or below the middle between initial and floor), ``half_after`` (the
        checkpoint before it), ``collapsed`` and ``checkpoints``.
    """
    rows = []
    for cell, steps, values in trajectories(records, measure):
        if cell["layer"] == "":
            continue
        if until is not None:
            kept = max(1, int(np.searchsorted(steps, until, side="right")))  # the first always
            steps, values = steps[:kept], values[:kept]
        index, fall = floor_of(steps, values)
        initial, floor = fall["initial"], fall["floor"]
        collapsed = fall["depth"] >= min_depth and floor < initial
        half = after = math.nan
        if collapsed:
            middle = 0.5 * (initial + floor)
            # Index 0 is the initial value itself, and the floor is below the middle: one is found.
            at = int(np.argmax(values[: index + 1] <= middle))
            half, after = float(steps[at]), float(steps[at - 1])
            if interpolate:
                share = (values[at - 1] - middle) / (values[at - 1] - values[at])
                half = float(steps[at - 1] + share * (steps[at] - steps[at - 1]))
        found = {"half_step": half, "half_after": after, "collapsed": collapsed}
        rows.append(cell | fall | found | {"checkpoints": len(steps)})
    return _by_depth(rows, HALF_COLUMNS)


def _by_depth(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Rows as a table: cells in their usual order, and layers from first to last inside a cell."""
    rows = sorted(rows, key=lambda row: layer_depth(row["layer"]))
    return in_order(pd.DataFrame(rows, columns=columns))
