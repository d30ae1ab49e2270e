"""What a coefficient is without localization, from coefficients at several localizations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Exponents p of a coefficient that is approached as localization^p: 1 for quadratics with and
#: without flat directions, and for all losses that are homogeneous.
_POWERS = np.linspace(0.25, 1.5, 26)
#: Values of log(scale / localization) of one that is approached as 1 / log, as products of
#: different weights are (multiplicity above 1 of the singularity).
_LOGARITHMS = np.geomspace(2.0, 20.0, 26)
#: Of the strongest localizations no law holds yet.
_LARGEST_EFFECT = 0.6
_POINTS = 4
#: Error of an effect beyond which it says nothing beside the coefficients themselves.
_UNKNOWN_EFFECT = 0.2
#: Chi squared per degree of freedom beyond which neither law describes the points.
_WORST_FIT = 6.0


@dataclass(frozen=True)
class Point:
    """A coefficient at one localization.

    Attributes:
        localization: of it.
        value, error: the coefficient and its standard error.
        effect, effect_error: -d log coefficient / d log localization; NaN where it is not known.
    """

    localization: float
    value: float
    error: float
    effect: float
    effect_error: float


@dataclass(frozen=True)
class Limit:
    """A coefficient without localization.

    Attributes:
        value, error: it and its standard error; NaN where the points do not tell.
        effect, effect_error: of the weakest localization, from its own point and from the change
            since the one before; NaN where neither tells.
    """

    value: float = math.nan
    error: float = math.nan
    effect: float = math.nan
    effect_error: float = math.nan

    def known(self, error: float, effect: float) -> bool:
        """Whether both errors are small, `error` as a share, and what localization takes is."""
        small = self.error <= error * abs(self.value) and self.effect_error <= 2.0 * error
        return small and self.effect <= effect

    def agrees(self, other: Limit, share: float) -> bool:
        """Whether two limits are the same but for their errors, or for such a share."""
        allowed = max(2.0 * math.hypot(self.error, other.error), share * abs(self.value))
        return abs(self.value - other.value) <= allowed


def extrapolate(points: Sequence[Point]) -> Limit:
    r"""The coefficient at a localization of zero.

    Near that limit a coefficient is lambda - s / p with s = -d coefficient / d log localization
    falling as localization^p, or lambda - s u with s falling as 1 / u^2, u = log(scale /
    localization). Every p and u of a grid is fitted to the values and slopes of up to four of the
    weakest localizations; of all fits, weighted by their likelihood and the two laws alike, the
    mean and the standard deviation are returned: what the points cannot tell apart is part of the
    error. Either law holds to first order in the effect, and is not held to more; where both fit
    badly the error grows by how badly, and beyond that the strongest localization is left out.

    Args:
        points: in any order; their localizations differ.
    """
    points = sorted((p for p in points if p.value > 0), key=lambda p: p.localization)
    effects = [_effect(points, i) for i in range(len(points))]
    if not points or math.isnan(effects[0][0]):
        return Limit()
    weakest = effects[0]
    kept = [
        (point, effect)
        for point, (effect, _) in zip(points, effects, strict=True)
        if effect < _LARGEST_EFFECT
    ][:_POINTS]
    if len(kept) < 2 or kept[0][0] is not points[0]:
        return Limit(math.nan, math.nan, *weakest)
    for many in range(len(kept), 1, -1):
        value, error = _fit(kept[:many])
        if not math.isnan(value):
            return Limit(value, error, *weakest)
    return Limit(math.nan, math.nan, *weakest)


def _fit(kept: Sequence[tuple[Point, float]]) -> tuple[float, float]:
    """The limit and its error by these points, with their effects; NaN where neither law fits."""
    used = [point for point, _ in kept]
    value = np.array([p.value for p in used])
    # What the next order in the effect may be, as a share of what is missing of the limit.
    rough = 0.5 * np.clip([effect for _, effect in kept], 0.0, None)
    x = np.log([p.localization / used[0].localization for p in used])  # 0 and more
    known = np.array([p.effect_error <= _UNKNOWN_EFFECT for p in used])
    slope = np.array([p.effect if ok else 0.0 for p, ok in zip(used, known, strict=True)]) * value
    uncertain = np.array([p.effect_error if ok else 1e6 for p, ok in zip(used, known, strict=True)])
    data = np.concatenate([value, slope])
    error = np.concatenate(
        [
            np.hypot([p.error for p in used], 2.0 * rough**2 * value),
            np.hypot(uncertain * value, 2.0 * rough**2 * value),
        ]
    )
    error = np.maximum(error, 1e-9 * value.max())
    fits = []
    for shape in _POWERS:
        falls = np.exp(shape * x)
        fits.append(_fitted(falls / shape, falls, data, error))
    for shape in _LOGARITHMS:
        u = shape - x
        if u.min() > 0.5:  # the stronger localizations are in reach of the law too
            fits.append(_fitted(shape**2 / u, (shape / u) ** 2, data, error))
    found = np.array(fits)
    freedom = max(len(used) + int(known.sum()) - 3, 1)
    misfit = float(found[:, 2].min()) / freedom
    if misfit > _WORST_FIT:
        return math.nan, math.nan
    worse = max(misfit, 1.0)
    weight = np.exp(-0.5 * (found[:, 2] - found[:, 2].min()) / worse)
    weight /= weight.sum()
    mean = float(weight @ found[:, 0])
    variance = float(weight @ (worse * found[:, 1] ** 2 + (found[:, 0] - mean) ** 2))
    return mean, math.sqrt(variance)


def _effect(points: list[Point], i: int) -> tuple[float, float]:
    """Of a point, from its own and from the changes to its neighbours, each by its error."""
    point, found = points[i], []
    if math.isfinite(point.effect) and math.isfinite(point.effect_error):
        found.append((point.effect, point.effect_error))
    for other in points[max(i - 1, 0) : i] + points[i + 1 : i + 2]:
        length = abs(math.log(other.localization / point.localization)) * point.value
        weaker, stronger = sorted((point, other), key=lambda p: p.localization)
        change = (weaker.value - stronger.value) / length
        # It is that of the middle: another by as much as effects change over the distance.
        error = math.hypot(point.error, other.error) / length
        found.append((change, math.hypot(error, 0.5 * change)))
    if not found:
        return math.nan, math.nan
    weights = [1.0 / max(error, 1e-9) ** 2 for _, error in found]
    total = sum(weights)
    mean = sum(w * value for w, (value, _) in zip(weights, found, strict=True)) / total
    return mean, 1.0 / math.sqrt(total)


def _fitted(
    missing: np.ndarray, falls: np.ndarray, data: np.ndarray, error: np.ndarray
) -> tuple[float, float, float]:
    """The limit, its error and chi squared of value = limit - s missing, slope = s falls."""
    ones, zeros = np.ones_like(missing), np.zeros_like(missing)
    rows = np.stack([np.concatenate([ones, zeros]), np.concatenate([-missing, falls])], 1)
    scaled, target = rows / error[:, None], data / error
    inverse = np.linalg.inv(scaled.T @ scaled)
    limit, slope = inverse @ (scaled.T @ target)
    left = target - scaled @ (limit, slope)
    return float(limit), math.sqrt(inverse[0, 0]), float(left @ left)
