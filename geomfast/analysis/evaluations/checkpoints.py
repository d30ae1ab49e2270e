"""How many checkpoints would have been needed to place every rise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from geomfast.analysis.trajectories import log_steps

#: Wanted distance between checkpoints around a rise, in doublings of the step: a factor of 1.19.
RESOLUTION = 0.25

COLUMNS = ["run", "scale", "after", "step", "doublings", "rises", "further"]


def checkpoints_needed(table: pd.DataFrame, *, resolution: float = RESOLUTION) -> pd.DataFrame:
    """Intervals between checkpoints in which tasks rise, and how many more would place them.

    Args:
        table: rows of :func:`geomfast.analysis.evaluations.rises`.
        resolution: largest distance between checkpoints, in doublings of the step, at which the
            order of two rises counts as known.

    Returns:
        One row per run and interval with a rise: ``after`` and ``step`` (its ends), ``doublings``
        (its width), ``rises`` (how many tasks) and ``further`` (checkpoints inside it that would
        leave no gap wider than ``resolution``; never more than there are steps).

    Raises:
        ValueError: the resolution is not positive.
    """
    if not 0.0 < resolution < math.inf:
        raise ValueError(f"resolution must be positive, got {resolution}")
    found = []
    risen = table[table["step"].notna() & table["after"].notna()]
    by = ["run", "scale", "after", "step"]
    for (run, scale, *_), rows in risen.groupby(by, sort=False):
        after, step = rows["after"].iloc[0], rows["step"].iloc[0]
        width = float(np.diff(log_steps([after, step]))[0])
        further = min(math.ceil(width / resolution) - 1, int(step - after) - 1)
        found.append([run, scale, after, step, width, len(rows), max(further, 0)])
    order = {run: i for i, run in enumerate(dict.fromkeys(table["run"]))}
    frame = pd.DataFrame(found, columns=COLUMNS)
    return frame.sort_values(
        ["run", "step"], key=lambda c: c.map(order) if c.name == "run" else c, ignore_index=True
    )
