"""Numbers that chains are set up by, and believed or doubted by; needs no torch."""

from __future__ import annotations

import math

#: A chain on a quadratic is stable where lr times the steepest curvature of its energy is less.
STABLE = 4.0


#: From which chains have converged, by rank-normalized R-hat (Vehtari et al. 2021, who recommend
#: 1.01) and effective draws of all chains; and from which a mean can be used with its error.
CONVERGED_RHAT, CONVERGED_ESS = 1.01, 100.0
LARGEST_RHAT, LEAST_ESS = 1.05, 30.0
#: Above which part of the estimate comes from the size of the steps, or from the localization.
LARGEST_STEP_BIAS = 0.1
LARGEST_LOCALIZATION_EFFECT = 0.1
#: Error from which an effect of localization says nothing, not even its sign.
UNKNOWN_EFFECT = 0.5
#: Share of the steepest direction from which localization holds chains more than the loss does.
HELD = 0.5
#: From which the latter is told even so: it may hold degenerate directions more than all of them.
TOLD_LOCALIZATION_EFFECT = 0.05
#: Power of the distance with which a loss has to grow where the draws are; it is 2 near a minimum,
#: and less than this where chains have gone so far that the loss nears what it is anywhere.
LEAST_DEGREE = 1.0
#: How a verdict begins where localization makes a coefficient a lower bound.
BOUND = "bound by localization"
#: The one default of chains for functions, sweeps and trackers: how many, of how many kept draws
#: each, after how many steps.
CHAINS, DRAWS, BURN_IN = 4, 100, 25
#: Kept draws of the chains that look for a step.
PILOT_DRAWS = 30
#: So many times as many draws a measure's chains take at most where they are too few to use.
RUN_ON = 4
#: Samples of a minibatch where a measure samples by itself.
BATCH_SIZE = 32
#: Pull to the weights where a step size is given and no localization.
LOCALIZATION = 100.0
#: Of an automatic step: with more, chains gain too much of every noise of a minibatch.
MOST_MOMENTUM = 0.9
#: Share of |w0| from w0 beyond which chains have left the weights.
NEAR = 0.5
#: Share of it within which localization = "norm" keeps chains that nothing else holds. At a half
#: the loss of many trained networks is no more that of their weights.
NORM_SHARE = 0.25


def believable(verdict: str) -> bool:
    """Whether a coefficient can be used with its error, as a verdict begins."""
    return verdict.startswith(("converged", "usable"))


def localizing(verdict: str) -> bool:
    """Whether localization, and nothing else, makes a coefficient no good, as a verdict begins."""
    return verdict.startswith((BOUND, "localization too strong"))


def saturated(degree: float, error: float) -> bool:
    """Whether chains are where the loss hardly depends on the weights; not where unknown."""
    return degree + 2.0 * error < LEAST_DEGREE


def localized(effect: float, error: float, least: float = LARGEST_LOCALIZATION_EFFECT) -> bool:
    """Whether the localization makes an estimate another one, beyond doubt; not where it is NaN."""
    return error <= UNKNOWN_EFFECT and abs(effect) > max(least, 2.0 * error)


def usual_nbeta(samples: int) -> float:
    """n / log n, of two samples or more (Watanabe 2013)."""
    return samples / math.log(samples)


def norm_localization(parameters: int, norm: float) -> float:
    """Localization with which chains that nothing else holds stay within a quarter of |w0|.

    |w - w0|^2 is then parameters / localization in the mean. It follows the scale of the weights,
    as curvature does where layers are normalized, and so fits models of any size.

    Args:
        parameters: P of those that are sampled.
        norm: |w0| of them.

    Raises:
        ValueError: all weights are zero.
    """
    if not norm > 0:
        raise ValueError("localization = 'norm' needs weights that are not all zero")
    return parameters / (NORM_SHARE * norm) ** 2


def critical_momentum(lr: float, localization: float) -> float:
    """Of critical damping in the slowest directions, which localization alone holds."""
    return math.exp(-2.0 * math.sqrt(lr * localization))


def burn_in_steps(lr: float, localization: float, least: int = 20) -> int:
    """Steps of that momentum in which the slowest directions forget where they began: 5 times."""
    return least + math.ceil(5.0 / math.sqrt(lr * localization))


def max_energy_curvature(
    localization: float, nbeta: float = 0.0, curvature: float | None = None
) -> float:
    """Largest curvature of a chain's energy, as far as it is known.

    Args:
        localization: strength of the pull to the center.
        nbeta: inverse temperature times the number of samples.
        curvature: largest eigenvalue of the loss's Hessian; None where it is not known.
    """
    return nbeta * max(curvature or 0.0, 0.0) + localization
