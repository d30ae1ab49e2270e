"""Confidence intervals over seeds, and over events.

Seeds are the statistical unit: the task-levels of one run share one network and are not
independent.  Scales are fixed: an interval says what other seeds of these scales would give, not
what other scales would.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval.

    Attributes:
        value: NaN where there was nothing to count.
        low, high: NaN where there is no interval.
        how: how the interval was made, in a few words; empty where there is none.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    how: str = ""


@functools.lru_cache(maxsize=10_000)
def wilson(count: int, of: int) -> tuple[float, float]:
    """95% Wilson interval of a share; (NaN, NaN) when there is nothing to count."""
    if of == 0:
        return math.nan, math.nan
    interval = stats.binomtest(count, of).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def mean_over_seeds(
    values: ArrayLike,
    scales: ArrayLike,
    *,
    least: float = -math.inf,
    most: float = math.inf,
) -> Estimate:
    """Mean over runs, with a t interval.

    Args:
        values: (R,) one number per run, finite.
        scales: (R,) the scale of each run.
        least, most: that a value can be, which no interval reaches over.  With a least alone the
            interval is one of the logarithm of the distance from it, by the delta method; with
            both it is cut off there.

    Returns:
        The mean.  Its interval takes the variance of seeds about the mean of their scale, pooled
        over scales as if it were the same at all.  With one seed at each of several scales it
        takes the variance of the runs instead, differences between scales included; with a single
        run there is no interval.
    """
    each = np.asarray(values, dtype=float)
    if len(each) == 0:
        return Estimate()
    mean = float(each.mean())
    variance, freedom, how = _spread(each, scales)
    if freedom == 0:
        return Estimate(mean)
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(variance / len(each))
    low, high = mean - half, mean + half
    if least < mean and least > -math.inf == -most:
        factor = float(np.exp(half / (mean - least)))
        low, high = least + (mean - least) / factor, least + (mean - least) * factor
        how += ", on a log scale"
    return Estimate(mean, max(low, min(least, mean)), min(high, max(most, mean)), how)


def share_over_seeds(flags: ArrayLike, runs: ArrayLike, scales: ArrayLike) -> Estimate:
    """Share of events that are true, with the wider of two intervals at either end.

    One is Wilson's, which takes all events for independent; the other a t interval over runs
    (linearised, since runs may have different numbers of events).  The second is usually wider,
    but has no width when all seeds agree, which a handful of seeds cannot promise.

    Args:
        flags: (E,) one per event.
        runs: (E,) the run of each event.
        scales: (E,) its scale.

    Returns:
        The share of all events; only Wilson's interval where there is a single run.
    """
    each = np.asarray(flags, dtype=bool)
    of = len(each)
    if of == 0:
        return Estimate()
    count = int(each.sum())
    share = count / of
    low, high = wilson(count, of)
    how = f"Wilson, {of} events taken as independent"
    names = np.asarray(runs, dtype=object).astype(str)
    _, first, run = np.unique(names, return_index=True, return_inverse=True)
    excess = np.bincount(run, weights=each) - share * np.bincount(run)
    variance, freedom, over = _spread(excess, np.asarray(scales, dtype=object)[first])
    if freedom > 0:
        quantile = float(stats.t.ppf(0.975, freedom))
        half = quantile * math.sqrt(len(excess) * variance) / of
        low, high = max(0.0, min(low, share - half)), min(1.0, max(high, share + half))
        how = f"the wider of {over} and of {how}"
    return Estimate(share, low, high, how)


def _spread(values: np.ndarray, scales: ArrayLike) -> tuple[float, int, str]:
    """Variance of one run, its degrees of freedom, and a description of its source."""
    names = np.asarray(scales, dtype=object).astype(str)
    _, scale = np.unique(names, return_inverse=True)
    means = np.bincount(scale, weights=values) / np.bincount(scale)
    freedom, about, over = len(values) - len(means), means[scale], "seeds"
    if freedom == 0:
        freedom, about, over = len(values) - 1, values.mean(), "scales of one seed each"
    if freedom == 0:
        return math.nan, 0, ""
    variance = float(((values - about) ** 2).sum()) / freedom
    return variance, freedom, f"t over {over} ({freedom} degrees of freedom)"
