"""Sudden or gradual: over how much of training the middle half of a rise lies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize

from geomfast.analysis.trajectories import TRAJECTORY, in_order, log_steps, select, stretches

#: A rise whose middle half takes at most one doubling of the step is sudden, from two on gradual.
SUDDEN, GRADUAL = 1.0, 2.0
#: Fewest standard errors of the total rise.
LEAST_ERRORS = 4.0
#: Measures with their sign, and whether their logarithm is taken.
CONTINUOUS = {"choice_probability": (1.0, False), "perplexity": (-1.0, True)}

COLUMNS = [*TRAJECTORY, "measure", "rise", "rise_stderr", "low", "low_after", "high", "high_after"]
COLUMNS += ["doublings", "least", "most", "jump", "jump_from", "jump_to", "verdict"]
VERDICTS = ("sudden", "between", "gradual", "not resolved")


def suddenness(records: pd.DataFrame, *, measure: str = "accuracy") -> pd.DataFrame:
    """How suddenly every task of every run rises.

    The curve is made monotone (isotonic regression, weighed by the inverse of the squared standard
    errors), and the steps are found at which it has a quarter and three quarters of its whole rise.
    Between checkpoints it is a straight line over the logarithm of the step; but it may be any
    curve that does not fall, and both levels depend on its first and its last value, which have
    errors.  So the doublings between the two are known only between a least and a most: the levels
    are moved by their standard error towards each other, and apart, and then the distance counts
    between the last checkpoint of the one and the first of the other, or between the first and the
    last.

    Args:
        records: behaviour, with the columns of :data:`geomfast.records.COLUMNS`.
        measure: ``accuracy``, another share, or one of :data:`CONTINUOUS`, of perplexity the
            logarithm, which falls.

    Returns:
        One row per run and task whose rise is at least :data:`LEAST_ERRORS` standard errors:
        ``rise`` (last minus first value of the curve) and ``rise_stderr``; ``low`` and ``high``
        (steps of a quarter and three quarters, interpolated), ``low_after`` and ``high_after``
        (the checkpoints before them); ``doublings`` between the two, ``least`` and ``most``;
        ``jump`` (largest share of the rise between neighbouring checkpoints), ``jump_from``,
        ``jump_to``; ``verdict``: sudden if ``most`` is at most :data:`SUDDEN`, gradual if
        ``least`` is at least :data:`GRADUAL`, not resolved where the two allow both, or else
        between.
    """
    sign, logarithmic = CONTINUOUS.get(measure, (1.0, False))
    rows = select(records, measure)
    found: list[dict[str, Any]] = []
    for key, at in stretches(rows, TRAJECTORY):
        own = rows.iloc[at]
        values, spread = own["value"].to_numpy(dtype=float), own["stderr"].to_numpy(dtype=float)
        if logarithmic:
            if not (values > 0).all():
                continue
            values, spread = np.log(values), spread / values
        told = _rise(own["step"].to_numpy(dtype=float), sign * values, spread)
        if told is not None:
            found.append(dict(zip(TRAJECTORY, key, strict=True)) | {"measure": measure} | told)
    return in_order(pd.DataFrame(found, columns=COLUMNS))


def _rise(steps: np.ndarray, values: np.ndarray, spread: np.ndarray) -> dict[str, Any] | None:
    """The columns of one curve; None where it is too short, or its rise is within errors."""
    if len(steps) < 3 or not np.isfinite(spread).all():
        return None
    # An error of 0 (no or all answers right) would outweigh every other.
    spread = np.maximum(spread, np.median(spread) / 10 or 1e-12)
    fit = optimize.isotonic_regression(values, weights=1.0 / spread**2).x
    rise, error = float(fit[-1] - fit[0]), float(np.hypot(spread[0], spread[-1]))
    if not rise > LEAST_ERRORS * error:
        return None
    axis = log_steps(steps)
    (low, i), (high, j) = (_crossing(axis, fit, fit[0] + part * rise) for part in (0.25, 0.75))
    gains = np.diff(fit)
    k = int(gains.argmax())
    # Without this, noise at the ends makes one in eight steps of 4.5 errors look gradual.
    doubt = math.hypot(0.25 * spread[-1], 0.75 * spread[0]) / rise
    (_, first), (_, late), (_, early), (_, last) = (
        _crossing(axis, fit, fit[0] + part * rise)
        for part in (0.25 - doubt, 0.25 + doubt, 0.75 - doubt, 0.75 + doubt)
    )
    least = max(0.0, float(axis[early - 1] - axis[late]))
    most = float(axis[last] - axis[first - 1])
    if most <= SUDDEN:
        verdict = "sudden"
    elif least >= GRADUAL:
        verdict = "gradual"
    else:
        verdict = "not resolved" if least < SUDDEN and most > GRADUAL else "between"
    return {
        "rise": rise,
        "rise_stderr": error,
        "low": _step(low),
        "low_after": float(steps[i - 1]),
        "high": _step(high),
        "high_after": float(steps[j - 1]),
        "doublings": high - low,
        "least": least,
        "most": most,
        "jump": float(gains[k] / rise),
        "jump_from": float(steps[k]),
        "jump_to": float(steps[k + 1]),
        "verdict": verdict,
    }


def _crossing(axis: np.ndarray, fit: np.ndarray, level: float) -> tuple[float, int]:
    """Where a curve that does not fall reaches a level above its first value, and the index of the
    first checkpoint that does."""
    index = int(np.argmax(fit >= level))
    below, above = fit[index - 1], fit[index]
    share = (level - below) / (above - below)
    return float(axis[index - 1] + share * (axis[index] - axis[index - 1])), index


def _step(doublings: float) -> float:
    """The inverse of :func:`geomfast.analysis.trajectories.log_steps`."""
    return 8.0 * (2.0**doublings - 1.0) if math.isfinite(doublings) else math.nan
