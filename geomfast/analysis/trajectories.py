"""Trajectories from the long table of records, one per cell: a task-level of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.remember import once
from geomfast.labels import size_in
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.tasks import TASK_NAMES
from geomfast.testbed.tasks.names import task_level

#: The columns that name one trajectory, of a measure without layers: one task-level of one run.
TRAJECTORY = ["run", "scale", "seed", "task", "level"]
#: The columns that name one value.
KEY = [*TRAJECTORY, "layer", "step", "measure"]
#: Steps up to which :func:`log_steps` is nearly linear: a logarithm alone would give the first
#: few steps, in which next to nothing happens, as much room as the collapse.
NEARLY_LINEAR = 8.0


@once
def select(records: pd.DataFrame, measure: str, layer: str | None = None) -> pd.DataFrame:
    """Rows of one measure, one row per cell, layer and step, without missing values.

    A row whose value is NaN says that nothing was measured at that checkpoint, so it is treated
    like a row that is not there.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        measure: name of the measure.
        layer: keep this layer only; all layers when None.

    Returns:
        The rows, sorted by cell, layer and step, with a fresh index.

    Raises:
        ValueError: a value was measured more than once, so that a trajectory would mix them;
            :func:`geomfast.analysis.check` lists all of them.
    """
    rows = records[(records["measure"] == measure) & records["value"].notna()]
    if layer is not None:
        rows = rows[rows["layer"] == layer]
    # One sort of whole numbers; pandas would go through the texts once more for every question.
    codes = np.stack([pd.factorize(rows[name], sort=True)[0] for name in KEY])
    order = np.lexsort(codes[::-1])
    again = (codes[:, order[1:]] == codes[:, order[:-1]]).all(axis=0)
    rows = rows.iloc[order].reset_index(drop=True)
    if again.any():
        twice = rows[np.append(again, False) | np.append(False, again)]
        first, found = twice.iloc[0], sorted(set(twice["settings"].astype(str)))
        raise ValueError(
            f"{measure} of {first['run']} at step {first['step']} is recorded more than once "
            f"(settings {', '.join(found)}): keep one of them"
        )
    return rows


def stretches(rows: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], slice]]:
    """Rows that follow each other and are the same in some columns.

    Args:
        rows: sorted by these columns, as those of :func:`select` are by cell and layer.
        names: of the columns.

    Yields:
        Their values and the place of the rows.
    """
    columns = [rows[name].to_numpy(dtype=object) for name in names]
    new = np.zeros(max(len(rows) - 1, 0), dtype=bool)
    for column in columns:
        new |= column[1:] != column[:-1]
    ends = [*(np.flatnonzero(new) + 1).tolist(), len(rows)] if len(rows) else []
    for first, end in zip([0, *ends], ends, strict=False):
        yield tuple(column[first] for column in columns), slice(first, end)


def trajectories(
    records: pd.DataFrame, measure: str, layer: str | None = None
) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """Every trajectory of a measure.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        measure: name of the measure.
        layer: this layer only; all layers when None.

    Yields:
        The cell and layer as a dict, the steps (ascending, int64) and the values (float64).
    """
    names = [*TRAJECTORY, "layer"]
    rows = select(records, measure, layer)
    steps, values = rows["step"].to_numpy(), rows["value"].to_numpy(dtype=float)
    for key, at in stretches(rows, names):
        yield dict(zip(names, key, strict=True)), steps[at], values[at]


def log_steps(steps: Any) -> np.ndarray:
    """The axis of time, in doublings of the step: log2(1 + step / 8), 0 at step 0.

    Far above 8 steps a difference on it is a ratio: 1 is twice as late.
    """
    return np.log2(1.0 + np.asarray(steps, dtype=float) / NEARLY_LINEAR)


def first_held(flags: np.ndarray, length: int, *, to_end: bool = False) -> int | None:
    """Index from which ``flags`` stays true for ``length`` consecutive entries, or None.

    Args:
        flags: (n,) booleans.
        length: how many consecutive entries must be true.
        to_end: also accept a shorter stretch when it reaches the last entry.
    """
    held = 0
    for index, flag in enumerate(flags):
        held = held + 1 if flag else 0
        if held == length:
            return index - length + 1
    return len(flags) - held if to_end and held else None


def chance_of(chance: Mapping[str, float] | None, task: str, level: int) -> float:
    """Exact-match chance of a task-level, 0 where none is given.

    Raises:
        ValueError: the chance is not in [0, 1).
    """
    value = float((chance or {}).get(task_level(task, level), 0.0))
    if not 0.0 <= value < 1.0:
        raise ValueError(f"chance of {task_level(task, level)} must be in [0, 1), got {value}")
    return value


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame sorted by scale (smallest first), seed, run, task and level, with a fresh index."""
    known: dict[str, list[str]] = {"scale": list(SCALES), "task": list(TASK_NAMES)}
    keys = [
        _ranks(frame[name], known.get(name, []))
        for name in ("scale", "seed", "run", "task", "level")
    ]
    return frame.iloc[np.lexsort(keys[::-1])].reset_index(drop=True)


def _size(value: object) -> float:
    size = size_in(value) if isinstance(value, str) else math.nan
    return math.inf if math.isnan(size) else size


def _ranks(column: pd.Series, first: list[str]) -> np.ndarray:
    """(rows,) whole numbers in the order of the values: those in ``first`` first, as there, then
    names that tell a size, the smallest first, then the others by the alphabet."""
    codes, found = pd.factorize(column, use_na_sentinel=False)
    place = {name: i for i, name in enumerate(first)}
    values = list(found)
    keys = [(place.get(value, len(place)), _size(value), value) for value in values]
    order = sorted(range(len(values)), key=keys.__getitem__)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.arange(len(values))
    return ranks[codes]
