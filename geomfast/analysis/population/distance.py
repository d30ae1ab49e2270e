"""Distances between the distributions of neighbouring scales, and the scale of an unlock.

Zhao et al. (arXiv:2502.17356) take the peak of the Wasserstein-2 distance between the outcomes of
neighbouring scales for the scale that unlocks a capability.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.population.summary import (
    CHUNK,
    LEAST_SEEDS,
    bootstrap_of,
    holm,
    one_population,
    percentiles,
)

DISTANCE_COLUMNS = ["smaller", "larger", "seeds_smaller", "seeds_larger"]
DISTANCE_COLUMNS += ["w2", "low", "high", "change", "chance", "p", "holm_p", "peak_share", "reason"]


def wasserstein2(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Wasserstein-2 distance of two samples on the line, exact also for unequal sizes.

    On the line the best transport joins equal quantiles, so that W2² is the integral of the
    squared difference of the two quantile functions (Villani 2003, Topics in Optimal
    Transportation, Theorem 2.18), which are step functions.

    Args:
        a: (..., n) finite.
        b: (..., m) finite, with the same leading shape.

    Returns:
        (...) in the unit of the scores.
    """
    a, b = np.sort(a, axis=-1), np.sort(b, axis=-1)
    n, m = a.shape[-1], b.shape[-1]
    of_a, of_b, width = _steps(n, m)
    apart = a[..., of_a] - b[..., of_b]
    return np.sqrt((apart**2 @ width) / (n * m))


@functools.lru_cache(maxsize=4)
def _steps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intervals on which both quantile functions are constant: indices of values, and widths."""
    # In units of 1 / nm, so that the steps are whole numbers and meet exactly.
    steps = np.sort(np.concatenate([np.arange(n + 1) * m, np.arange(m + 1) * n]))
    steps = steps[np.append(True, np.diff(steps) > 0)]
    start = steps[:-1]
    return start // m, start // n, np.diff(steps)


def distances(table: pd.DataFrame, *, bootstrap: int | None = None, seed: int = 0) -> pd.DataFrame:
    """Wasserstein-2 distance between the scores of each scale and the next.

    Args:
        table: rows of :func:`geomfast.analysis.population.outcomes` of one population.
        bootstrap: samples behind intervals, and permutations behind p-values; when None
            :func:`geomfast.analysis.population.summary.bootstrap_of` the table.
        seed: of both.

    Returns:
        One row per pair of neighbouring scales: ``smaller``, ``larger``, how many finished seeds
        of each, ``w2`` with ``low`` and ``high`` (95% percentile interval over members drawn anew
        at both scales; as a distance cannot be negative it lies somewhat high where there is
        none), ``change`` (of the mean score, from the smaller to the larger), ``chance`` (95th
        percentile of the distance if members are dealt to the two scales at random), ``p`` (of as
        large a distance then), ``holm_p`` (corrected for the number of pairs), ``peak_share`` (in
        how many bootstrap samples this pair is the furthest apart) and ``reason`` (why values are
        missing).  Pairs with fewer than
        :data:`geomfast.analysis.population.LEAST_SEEDS` seeds at a scale have none.

    Raises:
        ValueError: several populations in one table, or no bootstrap samples.
    """
    one_population(table)
    bootstrap = bootstrap_of(table) if bootstrap is None else bootstrap
    if bootstrap < 1:
        raise ValueError(f"bootstrap must be at least 1, got {bootstrap}")
    generator = np.random.default_rng(seed)
    scores = {
        str(scale): rows.dropna().to_numpy()
        for scale, rows in table.groupby("scale", sort=False)["score"]
    }
    # Drawn once a scale: what two pairs share must vary in both alike for the peak to be judged.
    drawn = {
        scale: _Drawn(values, bootstrap, generator)
        for scale, values in scores.items()
        if len(values) >= LEAST_SEEDS
    }
    rows, samples = [], []
    for smaller, larger in itertools.pairwise(scores):
        a, b = scores[smaller], scores[larger]
        row: dict[str, Any] = {"smaller": smaller, "larger": larger, "reason": ""}
        row |= {"seeds_smaller": len(a), "seeds_larger": len(b)}
        if smaller in drawn and larger in drawn:
            members = len(a) + len(b)
            both = zip(drawn[smaller].samples(members), drawn[larger].samples(members), strict=True)
            samples.append(np.concatenate([wasserstein2(one, other) for one, other in both]))
            row["w2"] = float(wasserstein2(a, b))
            row["low"], row["high"] = percentiles(samples[-1])
            row["change"] = float(b.mean() - a.mean())
            null = _permuted(a, b, bootstrap, generator)
            row["chance"] = float(np.percentile(null, 95))
            row["p"] = float((1 + (null >= row["w2"] * (1 - 1e-12)).sum()) / (1 + bootstrap))
        else:
            row["reason"] = f"fewer than {LEAST_SEEDS} seeds at one of the scales"
        rows.append(row)
    found = pd.DataFrame(rows, columns=DISTANCE_COLUMNS)
    found["holm_p"] = holm(found["p"].to_numpy(dtype=float))
    if samples:
        first = np.argmax(samples, axis=0)
        shares = np.bincount(first, minlength=len(samples)) / bootstrap
        found.loc[found["w2"].notna(), "peak_share"] = shares
    return found


def _permuted(
    a: np.ndarray, b: np.ndarray, draws: int, generator: np.random.Generator
) -> np.ndarray:
    """Distances when the members are dealt to the two scales at random."""
    both = np.concatenate([a, b])
    found = []
    for size in _sizes(draws, len(both)):
        dealt = generator.permuted(np.tile(both, (size, 1)), axis=1)
        found.append(wasserstein2(dealt[:, : len(a)], dealt[:, len(a) :]))
    return np.concatenate(found)


class _Drawn:
    """Bootstrap samples of one scale, which are drawn again instead of being kept."""

    def __init__(self, values: np.ndarray, bootstrap: int, generator: np.random.Generator):
        self._values, self._bootstrap = values, bootstrap
        self._state = copy.deepcopy(generator.bit_generator.state)
        for size in _sizes(bootstrap, len(values)):
            generator.integers(len(values), size=(size, len(values)))

    def samples(self, members: int) -> Iterator[np.ndarray]:
        """The samples, as many at a time as there is room for beside others of some members."""
        generator = np.random.default_rng(0)
        generator.bit_generator.state = self._state
        for size in _sizes(self._bootstrap, members):
            yield self._values[
                generator.integers(len(self._values), size=(size, len(self._values)))
            ]


def _sizes(draws: int, members: int) -> Iterator[int]:
    """Number of samples that are held at a time."""
    at_a_time = max(1, CHUNK // members)
    for first in range(0, draws, at_a_time):
        yield min(at_a_time, draws - first)


@dataclass(frozen=True)
class Unlocking:
    """Scale at which a capability unlocks: the larger one of the most distant pair.

    A distance has no direction: where scores fall from the smaller to the larger scale, a
    capability is lost there.

    Attributes:
        scale: empty where nothing could be judged.
        before: the scale before it.
        w2, low, high: the distance between the two, and its interval.
        change: of the mean score; negative where the larger scale does worse.
        share: how many bootstrap samples have their peak there.
        p: that neighbouring scales of one distribution are as far apart, corrected for the pairs.
    """

    scale: str = ""
    before: str = ""
    w2: float = math.nan
    low: float = math.nan
    high: float = math.nan
    change: float = math.nan
    share: float = math.nan
    p: float = math.nan


def unlocking(found: pd.DataFrame) -> Unlocking:
    """The peak of the distances.

    Args:
        found: rows of :func:`distances`.
    """
    known = found[found["w2"].notna()]
    if known.empty:
        return Unlocking()
    peak = known.iloc[int(known["w2"].to_numpy(dtype=float).argmax())]
    numbers = [float(peak[x]) for x in ("w2", "low", "high", "change", "peak_share", "holm_p")]
    return Unlocking(str(peak["larger"]), str(peak["smaller"]), *numbers)
