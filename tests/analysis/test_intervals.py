"""Intervals over seeds and events, against closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from geomfast.analysis.intervals import mean_over_seeds, share_over_seeds, wilson


def test_wilson_against_its_formula():
    count, of, z = 7, 20, stats.norm.ppf(0.975)
    share = count / of
    centre = (share + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * math.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    assert wilson(count, of) == pytest.approx((centre - half, centre + half))
    assert all(map(math.isnan, wilson(0, 0)))


def test_mean_of_one_scale_is_the_usual_t_interval():
    values = [2.0, 2.2, 2.5]
    found = mean_over_seeds(values, ["nano"] * 3)
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / math.sqrt(3)
    assert (found.value, found.low) == pytest.approx((np.mean(values), np.mean(values) - half))
    assert found.how == "t over seeds (2 degrees of freedom)"


def test_differences_between_scales_do_not_count_as_noise():
    values, scales = [1.0, 1.2, 9.0, 9.2], ["nano", "nano", "micro", "micro"]
    found = mean_over_seeds(values, scales)
    # Variance within: 2 * 0.1^2 at both scales, over two degrees of freedom.
    half = stats.t.ppf(0.975, 2) * math.sqrt(0.02 / 4)
    assert (found.low, found.high) == pytest.approx((5.1 - half, 5.1 + half))


def test_with_one_seed_each_scales_are_all_there_is():
    found = mean_over_seeds([1.0, 3.0], ["nano", "micro"])
    assert found.how.startswith("t over scales of one seed each")
    assert found.high - found.value == pytest.approx(12.706, abs=1e-3)


def test_a_single_run_has_no_interval():
    found = mean_over_seeds([4.0], ["nano"])
    assert found.value == 4.0 and math.isnan(found.low) and found.how == ""
    assert math.isnan(mean_over_seeds([], []).value)


def test_share_of_one_run_is_wilsons():
    found = share_over_seeds([True] * 7 + [False] * 13, ["a"] * 20, ["nano"] * 20)
    assert (found.low, found.high) == pytest.approx(wilson(7, 20))
    assert "20 events taken as independent" in found.how
    assert math.isnan(share_over_seeds([], [], []).value)


def test_seeds_that_disagree_widen_a_share_and_seeds_that_agree_do_not_narrow_it():
    runs = [f"seed{i // 20}" for i in range(60)]
    # All of one seed's events, half of the next one's, none of the last one's.
    apart = [i < 20 or 20 <= i < 30 for i in range(60)]
    found = share_over_seeds(apart, runs, ["nano"] * 60)
    half = stats.t.ppf(0.975, 2) * 0.5 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.0, 1.0))  # cut off at what a share can be
    assert found.value - half < 0
    alike = [i % 2 == 0 for i in range(60)]
    same = share_over_seeds(alike, runs, ["nano"] * 60)
    assert (same.low, same.high) == pytest.approx(wilson(30, 60))
    assert same.how.startswith("the wider of t over seeds (2 degrees of freedom) and of Wilson")


def test_coverage_of_a_share_with_runs_that_differ():
    generator = np.random.default_rng(0)
    scales = np.repeat(["nano", "micro"], 3)
    hit = 0
    for _ in range(300):
        own = np.repeat(generator.beta(8, 4, size=6), 12)  # true share two thirds
        flags = generator.random(72) < own
        found = share_over_seeds(flags, np.repeat(range(6), 12).astype(str), np.repeat(scales, 12))
        hit += found.low <= 2 / 3 <= found.high
    assert hit / 300 > 0.93
    assert hit / 300 < 1.0  # it is an interval, not everything


def test_no_interval_reaches_beyond_what_a_value_can_be():
    free = mean_over_seeds([0.01, 0.2], ["nano", "micro"])
    assert free.low < 0
    above = mean_over_seeds([0.01, 0.2], ["nano", "micro"], least=0.0)
    assert 0 < above.low < above.value == free.value < above.high
    assert above.how == f"{free.how}, on a log scale"
    # The logarithm's error is that of the mean over the mean.
    assert math.log(above.high / above.value) == pytest.approx(
        (free.high - free.value) / free.value
    )
    within = mean_over_seeds([0.5, 0.9], ["nano", "micro"], least=-1.0, most=1.0)
    assert within.high == 1.0 and within.low == -1.0 and "log" not in within.how


@pytest.mark.parametrize("values", [[1.0, 1.0], [0.99, 0.99]])
def test_intervals_hold_values_at_the_least_there_is(values):
    found = mean_over_seeds(values, ["nano", "nano"], least=1.0)
    assert found.low == found.value == found.high == values[0]
