"""Limits without localization, from points whose limit is known."""

import math

import numpy as np
import pytest

from geomfast.estimators.sampling.extrapolation import Point, extrapolate


def quadratic(curvature):
    """Coefficient and slope of a quadratic, by localization (nbeta 1)."""
    h = np.asarray(curvature, dtype=float)
    return lambda a: (0.5 * (h / (h + a)).sum(), 0.5 * (a * h / (h + a) ** 2).sum())


def logarithmic(a):
    """1/2 - 1 / log(1000 / a^2), as of (x y)^2."""
    u = math.log(1000.0) - 2.0 * math.log(a)
    return 0.5 - 1.0 / u, 2.0 / u**2


def points(law, localizations, error=0.01, seed=0):
    random = np.random.default_rng(seed)
    for a in localizations:
        value, slope = law(a)
        drawn, effect = random.normal(size=2) * error
        yield Point(a, value * (1.0 + drawn), error * value, slope / value + effect, error)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("law", "weakest", "exact"),
    [
        (quadratic(np.linspace(0.2, 1.0, 100)), 0.01, 50.0),
        (quadratic([*np.zeros(50), *np.linspace(0.3, 1.0, 60)]), 0.02, 30.0),
        (quadratic(np.geomspace(0.01, 10.0, 200)), 5e-4, 100.0),
        (logarithmic, 0.01, 0.5),
    ],
    ids=["quadratic", "half flat", "spread", "logarithm"],
)
def test_the_limit_lies_within_its_error(law, weakest, exact, seed):
    limit = extrapolate(list(points(law, [weakest * 4**i for i in range(5)], seed=seed)))
    assert abs(limit.value - exact) <= 3.0 * limit.error
    assert limit.error <= 0.25 * exact
    # Order does not matter.
    again = extrapolate([*points(law, [weakest * 4**i for i in range(5)], seed=seed)][::-1])
    assert again == limit


def test_a_slow_approach_has_a_large_error():
    fast = extrapolate(list(points(quadratic([1.0] * 20), [0.02, 0.08, 0.32], error=0.003)))
    slow = extrapolate(list(points(logarithmic, [0.1, 0.4, 1.6], error=0.003)))
    assert fast.error < 0.02 * fast.value and slow.error > 0.03 * slow.value


def test_values_alone_tell_too():
    """Effects of large models are known to no better than hundreds of per cent."""
    law = quadratic(np.linspace(0.2, 1.0, 100))
    blind = [
        Point(p.localization, p.value, p.error, 3.0, 9.0)
        for p in points(law, [0.005 * 4**i for i in range(4)], error=0.003)
    ]
    limit = extrapolate(blind)
    assert abs(limit.value - 50.0) <= 3.0 * limit.error and limit.error < 5.0
    assert limit.effect == pytest.approx(0.012, abs=0.01)


def test_what_says_nothing():
    law = quadratic([1.0] * 10)
    one = list(points(law, [0.1]))
    assert math.isnan(extrapolate([]).value) and math.isnan(extrapolate(one).value)
    assert extrapolate(one).effect == one[0].effect
    strong = extrapolate(list(points(law, [4.0, 16.0])))  # localization decides
    assert math.isnan(strong.value) and strong.effect > 0.6
    # Two points that differ by more than their effects allow.
    broken = [Point(1.0, 5.0, 0.01, 0.0, 0.01), Point(4.0, 2.0, 0.01, 0.0, 0.01)]
    assert math.isnan(extrapolate(broken).value)
