"""Start, maximum and end of trajectories."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from geomfast.analysis.trajectories import TRAJECTORY

#: The columns of :func:`course`.
COURSE = ["checkpoints", "initial", "largest", "largest_step", "final", "stderr"]


def by_trajectory(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Every cell of some rows as a dict, and its rows."""
    for key, part in rows.groupby(TRAJECTORY, sort=False):
        yield dict(zip(TRAJECTORY, key, strict=True)), part


def course(rows: pd.DataFrame) -> dict[str, Any]:
    """First, largest and last value of one trajectory, given by step.

    Returns:
        The columns :data:`COURSE`: how many ``checkpoints``; ``initial``, ``largest``, the step it
        is first reached at ``largest_step``, and ``final`` with its error ``stderr``, NaN where
        there is no checkpoint.
    """
    if rows.empty:
        return dict.fromkeys(COURSE, math.nan) | {"checkpoints": 0}
    values = rows["value"].to_numpy(dtype=float)
    top = int(values.argmax())
    found = (len(rows), values[0], values[top], rows["step"].iloc[top], values[-1])
    return dict(zip(COURSE, (*found, rows["stderr"].iloc[-1]), strict=True))


def medians(rows: pd.DataFrame, *names: str) -> dict[str, Any]:
    """Medians of some columns over cells, and how many cells there are, as ``n``."""
    return {name: float(rows[name].median()) for name in names} | {"n": len(rows)}
