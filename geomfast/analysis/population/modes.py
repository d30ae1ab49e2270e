"""One group of seeds or two: a Beta distribution against a mixture of two, by held-out likelihood.

The dip test asks whether a single mode can be rejected, and needs many seeds where one group is
small.  This asks which of two models foretells seeds that it was not fitted to.  Scores that are
shares of n samples are counts, so that both models are beta-binomial: a score of exactly 0 or 1 is
nothing special.  Stone (1974), "Cross-validatory choice and assessment of statistical predictions".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln, expit, log_expit, logit, psi

from geomfast.analysis.population.summary import LEAST_SEEDS, one_population

#: Parts that the members are dealt to; each is left out once.
FOLDS = 10
#: Most members of a scale for which models are fitted: thousands need no model to show two groups.
MOST_SEEDS = 5_000
#: What two groups have to gain to be told: standard errors above zero, nats a seed, and seeds in
#: the smaller one. Where most seeds score the same, the error is next to nothing, and so is the
#: gain.
CLEAR, LEAST_GAIN, LEAST_GROUP = 2.0, 0.01, 3
MODES_COLUMNS = ["scale", "seeds", "gain", "stderr", "two", "share", "low", "high", "at_both_ends"]
MODES_COLUMNS += ["reason"]

Floats = NDArray[np.float64]
#: Logarithm of a Beta's a + b: from two heaps at the ends to narrower than any score is known.
_NARROWNESS = (-3.0, 7.0)
_CENTRE = (-9.0, 9.0)
_SHARE = (-4.0, 4.0)
_ONE, _TWO = [_CENTRE, _NARROWNESS], [_SHARE, *(2 * [_CENTRE, _NARROWNESS])]
#: Maxima of the likelihood of all members from which those of some are looked for.
_KEPT = 2


@dataclass(frozen=True)
class Scores:
    """Scores as the models take them.

    Attributes:
        right: (m,) samples of each member that are right; 0 to ``of``.
        of: samples of each.
    """

    right: Floats
    of: float

    def __getitem__(self, which: NDArray[np.bool_]) -> Scores:
        return Scores(self.right[which], self.of)

    def one(self, parameters: Floats) -> tuple[Floats, Floats]:
        """(m,) log-likelihood of each under a Beta, but for what no parameter changes.

        Args:
            parameters: logit of its mean, and the logarithm of a + b.

        Returns:
            That, and its derivatives (m, 2).
        """
        mean, total = expit(parameters[0]), math.exp(parameters[1])
        a, b = mean * total, (1.0 - mean) * total
        wrong = self.of - self.right
        value = betaln(self.right + a, wrong + b) - betaln(a, b)
        shared = psi(total) - psi(self.of + total)
        by_a = psi(self.right + a) - psi(a) + shared
        by_b = psi(wrong + b) - psi(b) + shared
        slopes = (by_a - by_b) * total * mean * (1.0 - mean), by_a * a + by_b * b
        return value, np.column_stack(slopes)

    def two(self, parameters: Floats) -> tuple[Floats, Floats]:
        """The same under a mixture: logit of the first's share, and parameters of both.

        Returns:
            Log-likelihoods (m,), and their derivatives (m, 5).
        """
        first, by_first = self.one(parameters[1:3])
        second, by_second = self.one(parameters[3:5])
        first, second = first + log_expit(parameters[0]), second + log_expit(-parameters[0])
        value = np.logaddexp(first, second)
        belongs = np.exp(first - value)[:, None]
        by_share = belongs - expit(parameters[0])
        return value, np.hstack([by_share, belongs * by_first, (1.0 - belongs) * by_second])


def modes(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Whether two groups foretell the seeds of each scale better than one.

    Args:
        table: rows of :func:`geomfast.analysis.population.outcomes` of one population.
        seed: of dealing the members to :data:`FOLDS` parts.

    Returns:
        One row per scale: ``gain``, mean log-likelihood of a member left out under two Betas minus
        that under one (nats), with its ``stderr`` over members; ``two``, whether it is above zero
        by :data:`CLEAR` errors, :data:`LEAST_GAIN` at least, with :data:`LEAST_GROUP` seeds or more
        in the smaller group; ``share``, ``low`` and ``high``, of the mixture fitted to all
        members the share of its upper group and both means; ``at_both_ends``, whether the one Beta
        has heaps at 0 and at 1, which is two groups as well; and ``reason``, why there is none.

    Raises:
        ValueError: several populations in one table.
    """
    one_population(table)
    rows: list[dict[str, Any]] = []
    for scale, members in table.groupby("scale", sort=False):
        finished = members[members["score"].notna()]
        row: dict[str, Any] = dict.fromkeys(MODES_COLUMNS, math.nan)
        row |= {"scale": scale, "seeds": len(finished), "reason": _refusal(finished["score"])}
        row |= {"two": False, "at_both_ends": False}
        if not row["reason"]:
            row |= _compared(_scores(finished), np.random.default_rng(seed))
        rows.append(row)
    return pd.DataFrame(rows, columns=MODES_COLUMNS)


def _refusal(scores: pd.Series) -> str:
    if len(scores) < LEAST_SEEDS:
        return f"{len(scores)} seeds; statistics need {LEAST_SEEDS}"
    if len(scores) > MOST_SEEDS:
        return f"more than {MOST_SEEDS:,} seeds"
    if ((scores < 0) | (scores > 1)).any():
        return "scores beyond 0 to 1"
    return "all scores equal" if scores.nunique() == 1 else ""


def _scores(finished: pd.DataFrame) -> Scores:
    scores = finished["score"].to_numpy(dtype=float)
    samples = finished["n"].to_numpy(dtype=float)
    if not np.isnan(samples).any() and np.ptp(samples) == 0:
        return Scores(scores * samples[0], float(samples[0]))
    # Of no known number of samples: as if of a hundred, finer than most evaluations are.
    return Scores(scores * 100.0, 100.0)


def _compared(scores: Scores, generator: np.random.Generator) -> dict[str, float | bool]:
    count = len(scores.right)
    one, ways = _fit(Scores.one, scores, _starts_of_one(scores), _ONE)[0], _starts_of_two(scores)
    # The likelihood of a mixture has many maxima. Those of some members lie near those of all.
    best = _fit(Scores.two, scores, ways, _TWO)[:_KEPT]
    two = best[0]
    fold = generator.permutation(count) % min(FOLDS, count)
    gains = np.empty(count)
    for left_out in np.unique(fold):
        known, tested = scores[fold != left_out], scores[fold == left_out]
        of_one = _fit(Scores.one, known, [one], _ONE)[0]
        of_two = _fit(Scores.two, known, best, _TWO)[0]
        gains[fold == left_out] = tested.two(of_two)[0] - tested.one(of_one)[0]
    gain, stderr = float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(count))
    means, share = expit(two[[1, 3]]), float(expit(two[0]))
    low, high = sorted(means.tolist())
    a, b = (math.exp(one[1]) * of for of in (expit(one[0]), expit(-one[0])))
    return {
        "gain": gain,
        "stderr": stderr,
        "two": gain > max(CLEAR * stderr, LEAST_GAIN)
        and min(share, 1.0 - share) * count >= LEAST_GROUP
        and high - low > 1.0 / scores.of,
        "share": share if means[0] > means[1] else 1.0 - share,
        "low": low,
        "high": high,
        "at_both_ends": bool(a < 1.0 and b < 1.0),
    }


def _moments(right: Floats, of: float) -> Floats:
    """A Beta of the mean and spread of some scores."""
    shares = np.clip(right / of, 0.5 / of, 1.0 - 0.5 / of)
    mean, spread = float(shares.mean()), float(shares.var()) + 0.1 / of**2
    narrowness = math.log(max(mean * (1.0 - mean) / spread - 1.0, 1e-3))
    return np.array([np.clip(logit(mean), *_CENTRE), np.clip(narrowness, *_NARROWNESS)])


def _starts_of_one(scores: Scores) -> list[Floats]:
    return [_moments(scores.right, scores.of)]


def _starts_of_two(scores: Scores) -> list[Floats]:
    """Several ways to cut the members in two."""
    ordered = np.sort(scores.right)
    starts = []
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        cut = min(max(2, round(share * len(ordered))), len(ordered) - 2)
        parts = (_moments(part, scores.of) for part in (ordered[:cut], ordered[cut:]))
        starts.append(np.concatenate([[np.clip(logit(share), *_SHARE)], *parts]))
    return starts


def _fit(
    likelihood: Callable[[Scores, Floats], tuple[Floats, Floats]],
    scores: Scores,
    starts: Sequence[Floats],
    bounds: Sequence[tuple[float, float]],
) -> list[Floats]:
    """Parameters of the maxima that are reached from the starts, the best first."""

    def descent(parameters: Floats) -> tuple[float, Floats]:
        value, slopes = likelihood(scores, parameters)
        return -float(value.sum()), -slopes.sum(axis=0)

    found = [minimize(descent, x, jac=True, method="L-BFGS-B", bounds=bounds) for x in starts]
    return [one.x for one in sorted(found, key=lambda one: one.fun)]
