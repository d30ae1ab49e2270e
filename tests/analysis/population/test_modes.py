"""One group of seeds or two: planted groups are found, and one group is not split."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import betabinom

from geomfast.analysis.population import modes, outcomes
from geomfast.analysis.population.modes import MODES_COLUMNS, Scores


def table(scores: np.ndarray, n: float | None = 200) -> pd.DataFrame:
    frame = pd.DataFrame({"scale": "a", "seed": range(len(scores)), "score": scores})
    return outcomes(frame if n is None else frame.assign(n=n))


def shares(generator: np.random.Generator, beta: np.ndarray) -> np.ndarray:
    return generator.binomial(200, beta) / 200


@pytest.mark.parametrize("n", [200, None])
def test_two_planted_groups_are_found_with_their_share_and_means(n: int | None) -> None:
    generator = np.random.default_rng(1)
    up = generator.random(120) < 0.3
    beta = np.where(up, generator.beta(24, 6, 120), generator.beta(3, 27, 120))
    (found,) = modes(table(shares(generator, beta), n)).to_dict("records")
    assert found["two"] and found["gain"] > 5 * found["stderr"] > 0
    assert found["share"] == pytest.approx(up.mean(), abs=0.03)
    assert (found["low"], found["high"]) == pytest.approx((0.1, 0.8), abs=0.04)
    assert found["seeds"] == 120 and not found["reason"]


@pytest.mark.parametrize(
    ("a", "b"),
    [(1.2, 1.5), (20.0, 30.0), (0.3, 4.0), (0.4, 0.4)],
    ids=["broad", "narrow", "0", "U"],
)
def test_one_group_is_not_two(a: float, b: float) -> None:
    generator = np.random.default_rng(2)
    found = pd.concat(modes(table(shares(generator, generator.beta(a, b, 80)))) for _ in range(5))
    assert not found["two"].any()
    assert found["at_both_ends"].all() == (a < 1 and b < 1)


def test_likelihoods_are_those_of_scipy_and_so_are_their_slopes() -> None:
    scores = Scores(np.array([0.0, 7.0, 200.0]), 200.0)
    at = np.array([0.4, -0.3, 1.2, 1.5, 2.5])

    def mixture(parameters: np.ndarray) -> np.ndarray:
        share, *both = 1 / (1 + np.exp(-parameters[0])), parameters[1:3], parameters[3:5]
        parts = []
        for logit, narrowness in both:
            mean, total = 1 / (1 + np.exp(-logit)), np.exp(narrowness)
            pmf = betabinom.pmf([0, 7, 200], 200, mean * total, (1 - mean) * total)
            parts.append(pmf)
        return np.log(share * parts[0] + (1 - share) * parts[1])

    value, slopes = scores.two(at)
    constant = mixture(at) - value
    np.testing.assert_allclose(mixture(at + 0.3) - scores.two(at + 0.3)[0], constant, atol=1e-9)
    for i in range(5):
        step = np.zeros(5)
        step[i] = 1e-6
        expected = (mixture(at + step) - mixture(at - step)) / 2e-6
        np.testing.assert_allclose(slopes[:, i], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (np.full(30, 0.5), "all scores equal"),
        (np.linspace(0, 1, 9), "9 seeds; statistics need 10"),
        (np.linspace(0, 1.5, 20), "scores beyond 0 to 1"),
    ],
)
def test_what_cannot_be_compared_says_why(scores: np.ndarray, reason: str) -> None:
    (found,) = modes(table(scores, None)).to_dict("records")
    assert found["reason"] == reason and np.isnan(found["gain"]) and not found["two"]
    assert list(found) == MODES_COLUMNS


@pytest.mark.parametrize(
    "scores",
    [[0.2] * 49 + [0.3], [1.0] * 20 + [0.98], [0.0] * 11 + [1.0], [0.0] * 30 + [0.005] * 10],
)
def test_a_seed_that_stands_alone_is_no_group(scores: list[float]) -> None:
    (found,) = modes(table(np.array(scores))).to_dict("records")
    assert not found["two"], found


def test_unfinished_members_are_left_out() -> None:
    generator = np.random.default_rng(3)
    scores = shares(generator, generator.beta(2, 2, 40))
    whole = modes(table(scores))
    missing = modes(table(np.concatenate([scores, [np.nan, np.nan]])))
    pd.testing.assert_frame_equal(whole, missing)
