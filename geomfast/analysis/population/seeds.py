"""Number of seeds that a study needs."""

from __future__ import annotations

import functools
import math

import numpy as np
import pandas as pd
from scipy import stats

#: Numbers of seeds on the curve.
SEED_COUNTS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 250)
#: With how many seeds at least one success is as good as certain.
SURE = 0.95
#: Half the width of an interval of P(success) that is called known.
KNOWN = 0.1

SEEDS_COLUMNS = ["scale", "count", "any", "any_low", "any_high", "half_width"]
#: Of the summary.
_USED = ["scale", "success", "success_low", "success_high"]
NEEDED_COLUMNS = ["scale", "seeds_for_success", "low", "high", "seeds_for_interval"]


def chance_of_any(success: float, count: np.ndarray | float) -> np.ndarray:
    """Probability that at least one of ``count`` seeds succeeds."""
    return 1.0 - (1.0 - success) ** np.asarray(count, dtype=float)


def seeds_curve(summary: pd.DataFrame) -> pd.DataFrame:
    """Result that a study with few seeds would see at every scale.

    Args:
        summary: rows of :func:`geomfast.analysis.population.summary`.

    Returns:
        One row per scale with statistics and number of seeds in :data:`SEED_COUNTS`: ``any``
        (probability that at least one succeeds, with ``any_low`` and ``any_high`` from the
        interval of P(success)) and ``half_width`` (of the 95% Wilson interval of P(success) that
        so many seeds would give on average).
    """
    rows = []
    for row in summary.loc[summary["success"].notna(), _USED].to_dict("records"):
        for count in SEED_COUNTS:
            ends = [float(chance_of_any(row[f"success{e}"], count)) for e in ("", "_low", "_high")]
            rows.append([row["scale"], count, *ends, expected_half_width(row["success"], count)])
    return pd.DataFrame(rows, columns=SEEDS_COLUMNS)


def seeds_needed(summary: pd.DataFrame) -> pd.DataFrame:
    """Number of seeds that each scale needs.

    Args:
        summary: rows of :func:`geomfast.analysis.population.summary`.

    Returns:
        One row per scale with statistics: ``seeds_for_success`` (fewest of which one succeeds with
        a probability of :data:`SURE`; infinite if none ever did), ``low`` and ``high`` (from the
        ends of the interval of P(success)), and ``seeds_for_interval`` (fewest that give P(success)
        to within :data:`KNOWN`, 95% Wilson interval, on average).
    """
    rows = []
    for row in summary.loc[summary["success"].notna(), _USED].to_dict("records"):
        at, most, least = (_for_any(row[f"success{end}"]) for end in ("", "_low", "_high"))
        rows.append([row["scale"], at, least, most, _for_width(row["success"])])
    return pd.DataFrame(rows, columns=NEEDED_COLUMNS)


@functools.lru_cache(maxsize=100_000)
def expected_half_width(success: float, count: int) -> float:
    """Half width of the 95% Wilson interval of P(success), on average over outcomes.

    Args:
        success: the true probability.
        count: of seeds.
    """
    wins = np.arange(count + 1)
    share, z = wins / count, float(stats.norm.ppf(0.975))
    half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    return float(stats.binom.pmf(wins, count, success) @ half)


def _for_any(success: float) -> float:
    if success <= 0.0:
        return math.inf
    if success >= 1.0:
        return 1.0
    return float(math.ceil(math.log(1.0 - SURE) / math.log1p(-success) - 1e-9))


def _for_width(success: float) -> float:
    """Number of seeds by bisection: the expected width falls with their number."""
    low, high = 1, 128  # known to within a tenth by then, whatever the probability
    while low < high:
        middle = (low + high) // 2
        if expected_half_width(success, middle) <= KNOWN:
            high = middle
        else:
            low = middle + 1
    return float(low)
