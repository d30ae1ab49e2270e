"""Hartigan's dip: how far a sample is from having one mode, and how likely that is by chance.

The dip (Hartigan and Hartigan 1985, The Dip Test of Unimodality, Annals of Statistics 13) is the
least distance D, in the largest difference of distribution functions, between the empirical
distribution F and any unimodal one: convex left of its mode, concave right of it, with a step
allowed at the mode itself.  It is found by narrowing the interval that the mode can lie in.  On
[low, high] let g be the greatest convex minorant of F and l its least concave majorant.  A mode on
the far side of the point where l - g is largest would cost that much; so, unless less has been paid
already, the mode lies between the last corner of g up to there and the first corner of l from there
on, and what F departs from g left of it, and from l right of it, must be paid.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import numpy as np

#: Samples of the null distribution behind a p-value; the least p is one in one more than this.
NULL_DRAWS = 10_000
#: Largest sample that the null distribution is simulated for.
LARGEST_NULL = 300
#: All sizes that are simulated where there are many, and the sum of those that are not many.
_SIZES = (*range(4, 41), 50, 62, 77, 96, 120, 150, 187, 233, 291)
_SIZES_TOGETHER = 1_500
#: Of them computed at a time: some megabytes of intermediate results.
_CHUNK = 1_000


def dip(scores: np.ndarray) -> float:
    """Hartigan's dip of one sample.

    Args:
        scores: (n,) finite; equal values are one step of the distribution function.

    Returns:
        The dip, between 1 / 2n and 1/4; 0 where all scores are equal, which is unimodal exactly.

    Raises:
        ValueError: no scores, or some that are not finite.
    """
    scores = _checked(scores)
    values, counts = np.unique(scores, return_counts=True)
    if len(values) == 1:
        return 0.0
    upto = np.cumsum(counts)
    found = _twice_dips(values[None].astype(float), upto - counts, upto)
    return float(found[0]) / (2 * len(scores))


def dip_test(scores: np.ndarray, *, every_size: bool = True) -> tuple[float, float]:
    """Hartigan's dip and its p-value.

    The null distribution is the uniform one, which among unimodal distributions has the largest
    dips asymptotically; it is simulated, with a fixed seed, for the very size of the sample up to
    :data:`LARGEST_NULL`, and above that for it: the dip falls with the root of the size, but for a
    term that is known.

    Args:
        scores: (n,) finite.
        every_size: simulate for the very size; else for one of a few sizes that is at most a
            quarter smaller, which is as good to a percent of the dip, and quicker for many sizes.

    Returns:
        The dip, and how often a uniform sample has as large a one; both NaN where all scores are
        equal or there are fewer than four.

    Raises:
        ValueError: no scores, or some that are not finite.
    """
    scores = _checked(scores)
    if len(scores) < 4 or np.ptp(scores) == 0:
        return math.nan, math.nan
    found, null = dip(scores), _null(len(scores), every_size)
    # A hair of slack, so that rounding cannot part what is equal: 1 / 2n has mass of its own.
    as_large = len(null) - int(np.searchsorted(null, found * (1 - 1e-12), side="left"))
    return found, (1 + as_large) / (1 + len(null))


def many_sizes(sizes: Iterable[int]) -> bool:
    """Whether simulating the null distribution for each of these sizes would take minutes."""
    return sum({min(n, LARGEST_NULL) for n in sizes}) > _SIZES_TOGETHER


def _null(n: int, every_size: bool) -> np.ndarray:
    """The null distribution for samples of n; ascending."""
    at = min(n, LARGEST_NULL)
    if not every_size:
        at = max(size for size in _SIZES if size <= at)
    return null_dips(at) * (_asymptotic(n) / _asymptotic(at)) if at != n else null_dips(n)


def _asymptotic(n: int) -> float:
    """Scale of the dips of uniform samples of size n, from about 40 on."""
    # The second term by simulation at 300 and 1,000.
    return (1.0 - 0.9 / math.sqrt(n)) / math.sqrt(n)


@functools.lru_cache(maxsize=LARGEST_NULL)
def null_dips(n: int, draws: int = NULL_DRAWS, seed: int = 0) -> np.ndarray:
    """Dips of uniform samples of n, ascending; the same for the same arguments.

    Args:
        n: at least 2.
        draws: how many samples.
        seed: of the samples.

    Returns:
        (draws,), read-only.
    """
    generator = np.random.default_rng(seed)
    ranks = np.arange(n + 1)
    found = []
    for first in range(0, draws, _CHUNK):
        uniform = generator.random((min(_CHUNK, draws - first), n))
        found.append(_twice_dips(np.sort(uniform, axis=1), ranks[:-1], ranks[1:]))
    dips = np.sort(np.concatenate(found)) / (2 * n)
    dips.flags.writeable = False
    return dips


def spread_ties(scores: np.ndarray, resolution: float) -> np.ndarray:
    """Scores with equal ones spread evenly over the width that they were rounded to.

    Accuracy on S samples is a multiple of 1/S.  Where the scores of a population fill only a few
    such values, each is a mode of its own to the dip test, and it rejects a single mode by the
    rounding alone.  Spread over one width, neighbouring values join to what they are: a histogram.

    Args:
        scores: (n,).
        resolution: width; 0 leaves the scores as they are.

    Returns:
        (n,) ascending; k equal scores v become v + resolution ((j + 1/2) / k - 1/2), j < k.
    """
    ordered = np.sort(scores)
    _, first, counts = np.unique(ordered, return_index=True, return_counts=True)
    place = np.arange(len(ordered)) - np.repeat(first, counts)
    return ordered + resolution * ((place + 0.5) / np.repeat(counts, counts) - 0.5)


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"scores must be a non-empty list of numbers, got shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, got {scores[~np.isfinite(scores)][0]}")
    return scores


def _twice_dips(x: np.ndarray, below: np.ndarray, upto: np.ndarray) -> np.ndarray:
    """2 n times the dip of each row.

    Args:
        x: (B, u) strictly ascending along rows.
        below, upto: (u,) how many of the n scores lie below each value, and at it or below; the
            same for all rows.

    Returns:
        (B,) at least 1: a value that is not the mode costs half of its own step.
    """
    rows, last = len(x), x.shape[1] - 1
    find = _corners_before_of_one if rows == 1 else _corners_before
    before = find(x, below)
    # The majorant is the minorant of the sample seen in a mirror, upside down.
    after = last - find(-x[:, ::-1], (upto[-1] - upto)[::-1])[:, ::-1]
    paid = np.ones(rows)
    low, high = np.zeros(rows, dtype=int), np.full(rows, last)
    active = np.arange(rows)
    while len(active):
        at, first, end = x[active], low[active], high[active]
        convex = _corners(before[active], end, first)
        concave = _corners(after[active], first, end)
        minorant, majorant = _through(at, below, convex), _through(at, upto, concave)
        gap = np.where(convex | concave, majorant - minorant, -1.0)
        widest = gap.argmax(axis=1)
        go_on = gap[np.arange(len(active)), widest] > paid[active]
        active, first, end, widest = active[go_on], first[go_on], end[go_on], widest[go_on]
        place = np.arange(last + 1)
        new_low = np.where(convex[go_on] & (place <= widest[:, None]), place, -1).max(axis=1)
        new_high = np.where(concave[go_on] & (place >= widest[:, None]), place, last).min(axis=1)
        left = (place >= first[:, None]) & (place < new_low[:, None])
        right = (place > new_high[:, None]) & (place <= end[:, None])
        cost = np.where(left, upto - minorant[go_on], 0.0)
        cost = np.maximum(cost, np.where(right, majorant[go_on] - below, 0.0))
        paid[active] = np.maximum(paid[active], cost.max(axis=1))
        low[active], high[active] = new_low, new_high
        # A mode that is one value may have any step there.
        active = active[new_low < new_high]
    return paid


def _corners_before(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For each point, the corner before it on the convex minorant of all points up to it.

    Args:
        x: (B, u) ascending along rows.
        y: (u,) ascending.

    Returns:
        (B, u) indices; 0 for the first point.
    """
    rows = np.arange(len(x))
    before = np.zeros(x.shape, dtype=int)
    for point in range(2, x.shape[1]):
        corner = np.full(len(x), point - 1)
        open_ = rows
        while len(open_):
            c = corner[open_]
            b = before[open_, c]
            # Not a corner if the way to it is at least as steep as the way from it.
            to = (y[c] - y[b]) * (x[open_, point] - x[open_, c])
            on = (y[point] - y[c]) * (x[open_, c] - x[open_, b])
            flat = (c > 0) & (to >= on)
            open_ = open_[flat]
            corner[open_] = b[flat]
        before[:, point] = corner
    return before


def _corners_before_of_one(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The dip of a single row, which may have a million points."""
    at, up = x[0].tolist(), y.tolist()
    before = [0] * len(at)
    for point in range(2, len(at)):
        c = point - 1
        while c > 0:
            b = before[c]
            if (up[c] - up[b]) * (at[point] - at[c]) < (up[point] - up[c]) * (at[c] - at[b]):
                break
            c = b
        before[point] = c
    return np.array([before])


def _corners(step: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """(B, u) true at the points met on the way from ``start`` to ``stop`` along ``step``."""
    met = np.zeros(step.shape, dtype=bool)
    rows, at = np.arange(len(step)), start
    met[rows, at] = True
    while len(rows):
        moving = at != stop[rows]
        rows, at = rows[moving], at[moving]
        at = step[rows, at]
        met[rows, at] = True
    return met


def _through(x: np.ndarray, y: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """(B, u) straight lines between corners of (x, y); of no meaning outside the first and last."""
    last = x.shape[1] - 1
    place = np.arange(last + 1)
    left = np.maximum.accumulate(np.where(corner, place, 0), axis=1)
    right = np.minimum.accumulate(np.where(corner, place, last)[:, ::-1], axis=1)[:, ::-1]
    x_left = np.take_along_axis(x, left, axis=1)
    width = np.take_along_axis(x, right, axis=1) - x_left
    share = np.divide(x - x_left, width, out=np.zeros_like(x), where=width > 0)
    return y[left] + share * (y[right] - y[left])
