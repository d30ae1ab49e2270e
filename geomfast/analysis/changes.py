"""When a measure changes: one change point per trajectory.

Two levels are fitted to a trajectory by least squares, over the logarithm of the step, and the
step between them is its change point, the first split of binary segmentation.  Checkpoints weigh
as much as the axis they stand for, so that a run that is looked at closely in its first steps has
its change where one that is looked at evenly has it.  That fit, its guard and what counts as too
small a change are our choice; arXiv:2602.15997 does not say how change points were found.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from geomfast.analysis.trajectories import TRAJECTORY, in_order, log_steps, select, stretches
from geomfast.measures import catalog

#: Measures whose logarithm is fitted: ranks are exponentials of an entropy, and a curvature
#: changes by orders of magnitude.  Values that are not positive have none and do not count.
LOGARITHMIC = frozenset(name for name, spec in catalog().specs.items() if spec.logarithmic)
#: A change by less than this factor is none, however steady; of the other measures one by less
#: than this many standard errors of a value.
LEAST_FACTOR, LEAST_ERRORS = 1.1, 2.0
#: With fewer checkpoints there is nothing to split; neither side may have fewer than LEAST_SIDE.
LEAST_CHECKPOINTS, LEAST_SIDE = 8, 3
#: Likelihood ratio (twice its logarithm) up to which a split belongs to the 95% confidence set of
#: the change point: (1 - exp(-x / 2))^2 = 0.95 (Eo and Morley 2015, a change of level).
CONFIDENCE = -2.0 * math.log(1.0 - math.sqrt(0.95))

COLUMNS = [*TRAJECTORY, "layer", "measure", "step", "after", "by", "change", "checkpoints"]


class Change(NamedTuple):
    """Step at which a trajectory changes.

    Attributes:
        at: first checkpoint of the new level.
        after, by: the change lies after checkpoint ``after`` and by checkpoint ``by`` (95%).
        size: new level minus old.
    """

    at: int
    after: int
    by: int
    size: float


def change_point(steps: np.ndarray, values: np.ndarray, *, least: float = 0.0) -> Change | None:
    """The change point of one trajectory, or None if two levels fit no better than one.

    A split must gain more than the modified Bayesian criterion of Zhang and Siegmund (2007) asks
    for one change, 3 log n.  The guard is against independent noise; a slow drift is a change,
    and its place is where the drift is halfway.

    Args:
        steps: (n,) ascending.
        values: (n,) finite.
        least: a smaller change is none.

    Returns:
        None also with fewer than :data:`LEAST_CHECKPOINTS` checkpoints.
    """
    count = len(values)
    if count < LEAST_CHECKPOINTS or np.ptp(values) == 0:
        return None
    axis = log_steps(steps)
    edges = np.concatenate([axis[:1], (axis[1:] + axis[:-1]) / 2, axis[-1:]])
    weights = np.diff(edges)
    effective = weights.sum() ** 2 / (weights**2).sum()
    splits = np.arange(LEAST_SIDE, count - LEAST_SIDE + 1)
    before, total = np.cumsum(weights)[splits - 1], weights.sum()
    about = values - np.average(values, weights=weights)
    left = np.cumsum(weights * about)[splits - 1]
    size = -left * total / (before * (total - before))  # the weighted sum of all is zero
    whole = float((weights * about**2).sum())
    # Two exact levels leave nothing, of which there is no logarithm.
    rest = np.maximum(whole - size**2 * before * (total - before) / total, 1e-12 * whole)
    best = int(rest.argmin())
    if abs(size[best]) < least:
        return None
    # A weighted mean is less sure than one of as many equal weights: the gain is of the change
    # over its own error.
    at = int(splits[best])
    shares = np.concatenate([weights[:at] / before[best], weights[at:] / (total - before[best])])
    error = rest[best] / total * (shares**2).sum() * count / (count - 2)
    if count * math.log1p(size[best] ** 2 / error / count) <= 3.0 * math.log(count):
        return None
    likely = splits[effective * np.log(rest / rest[best]) <= CONFIDENCE]
    return Change(int(splits[best]), int(likely[0]) - 1, int(likely[-1]), float(size[best]))


def change_points(records: pd.DataFrame, measure: str, *, layer: str | None = None) -> pd.DataFrame:
    """The change point of a measure on every task-level of every run.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        measure: any measure; the logarithm of those in :data:`LOGARITHMIC` is fitted. What is not
            finite does not count.
        layer: layer label; all layers when None.

    Returns:
        One row per run, scale, seed, task, level and layer: ``measure``; ``step`` (first
        checkpoint after the change, NaN if there was none); ``after`` and ``by`` (the change lies
        after the one and by the other, the 95% confidence set of the change point, at least one
        distance between checkpoints wide); ``change`` (new level minus old, of the logarithm
        where it was fitted) and ``checkpoints``.
    """
    rows = select(records, measure, layer)
    rows = rows[(rows["level"] > 0) & np.isfinite(rows["value"])]
    is_log = measure in LOGARITHMIC
    if is_log:
        rows = rows[rows["value"] > 0]
    found = []
    names = [*TRAJECTORY, "layer"]
    every = rows["step"].to_numpy()
    errors = rows["stderr"].to_numpy(dtype=float)
    heights = rows["value"].to_numpy(dtype=float)
    for key, at in stretches(rows, names):
        steps, values = every[at], heights[at]
        if is_log:
            values, least = np.log(values), math.log(LEAST_FACTOR)
        else:
            known = errors[at][~np.isnan(errors[at])]
            least = LEAST_ERRORS * float(np.median(known)) if len(known) else 0.0
        change = change_point(steps, values, least=least)
        step, after, by, size = [math.nan] * 4
        if change is not None:
            step, after, by = (float(steps[i]) for i in change[:3])
            size = change.size
        found.append([*key, measure, step, after, by, size, len(steps)])
    table = pd.DataFrame(found, columns=COLUMNS)
    return in_order(table.astype(dict.fromkeys(("step", "after", "by", "change"), float)))
