"""From the long table of records to one trajectory per cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from geomfast.models.scales import SCALES
from geomfast.records import MIXTURE
from geomfast.tasks import TASK_NAMES, TaskLevel

#: The columns that name one cell: one task-level of one run.
CELL = ["run", "scale", "seed", "task", "level"]


def task_level(task: str, level: int) -> str:
    """Name of a task-level, for instance ``MOD-1``; ``mixture`` for all of a run's together."""
    return "mixture" if (task, level) == MIXTURE else TaskLevel(task, level).name


def select(records: pd.DataFrame, measure: str, layer: str | None = None) -> pd.DataFrame:
    """Rows of one measure, one row per cell, layer and step, without missing values.

    A row whose value is NaN says that nothing was measured at that checkpoint, so it is treated
    like a row that is not there.  A value that was written twice with the same settings (a run
    that was killed and resumed) counts once.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        measure: name of the measure.
        layer: keep this layer only; all layers when None.

    Returns:
        The rows, sorted by cell, layer and step, with a fresh index.

    Raises:
        ValueError: one value was measured with two different settings, so that a trajectory would
            mix them; filter ``records`` by the ``settings`` column first.
    """
    rows = records[(records["measure"] == measure) & records["value"].notna()]
    if layer is not None:
        rows = rows[rows["layer"] == layer]
    key = [*CELL, "layer", "step"]
    rows = rows.drop_duplicates([*key, "settings"], keep="last")
    twice = rows.duplicated(key, keep=False)
    if twice.any():
        first = rows[twice].iloc[0]
        found = sorted(set(rows[twice]["settings"].astype(str)))
        raise ValueError(
            f"{measure} of {first['run']} at step {first['step']} was measured with several "
            f"settings ({', '.join(found)}): keep one of them"
        )
    return rows.sort_values(key, kind="stable").reset_index(drop=True)


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
    names = [*CELL, "layer"]
    for key, rows in select(records, measure, layer).groupby(names, sort=False):
        cell = dict(zip(names, key, strict=True))
        yield cell, rows["step"].to_numpy(), rows["value"].to_numpy(dtype=float)


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
    if frame.empty:
        return frame.reset_index(drop=True)
    # What is not in the tables comes after what is.
    scale = frame["scale"].map({name: i for i, name in enumerate(SCALES)}).fillna(len(SCALES))
    task = frame["task"].map({name: i for i, name in enumerate(TASK_NAMES)}).fillna(len(TASK_NAMES))
    ordered = frame.assign(_scale=scale, _task=task)
    by = ["_scale", "scale", "seed", "run", "_task", "task", "level"]
    ordered = ordered.sort_values(by, kind="stable")
    return ordered.drop(columns=["_scale", "_task"]).reset_index(drop=True)
