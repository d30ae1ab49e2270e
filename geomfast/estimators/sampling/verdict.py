"""What to make of chains, in words, and what to change."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from geomfast.estimators.sampling.diagnostics import Mixing
from geomfast.estimators.sampling.rules import (
    CONVERGED_ESS,
    CONVERGED_RHAT,
    HELD,
    LARGEST_LOCALIZATION_EFFECT,
    LARGEST_RHAT,
    LARGEST_STEP_BIAS,
    LEAST_ESS,
    TOLD_LOCALIZATION_EFFECT,
    believable,
    localized,
    localizing,
    saturated,
)
from geomfast.kernels.sgld import Dynamics


@dataclass(frozen=True)
class Biases:
    """What is known to make the mean another than that of the loss alone; NaN what is not known.

    Attributes:
        step_bias: what finite steps add to the mean, were the loss quadratic.
        degree, degree_error: with which power of the distance the loss grows.
        localization, localization_error: -d log mean / d log localization.
        localization_least: its share of the energy's curvature in the steepest direction.
    """

    step_bias: float = math.nan
    degree: float = math.nan
    degree_error: float = math.nan
    localization: float = math.nan
    localization_error: float = math.nan
    localization_least: float = math.nan

    def added(self) -> tuple[float, float]:
        """The least and the most that finite steps add to the mean.

        They differ where the loss is known to be no quadratic: to one of degree k steps add 2/k of
        `step_bias`, and to one with parts of several degrees something between.
        """
        known = self.degree_error < 0.25 * self.degree
        if not (known and abs(self.degree - 2.0) > 2.0 * self.degree_error):
            return self.step_bias, self.step_bias
        low, high = sorted((self.step_bias, self.step_bias * 2.0 / self.degree))
        return low, high


def verdict_of(mixed: Mixing, diverged: Tensor, biases: Biases, dynamics: Dynamics) -> str:
    """The first that holds: diverged, still training, step too large, localization too weak, too
    few draws, localization too strong, bound by localization, usable, converged.

    Args:
        mixed: of the kept draws.
        diverged: (C,) bool.
        biases: of their mean.
        dynamics: of the steps.
    """
    lower = f"lower lr = {dynamics.lr:g}"
    lost = int(diverged.sum())
    if lost:
        return f"diverged: {lost} of {len(diverged)} chains, which do not count; {lower}"
    if mixed.mean < -2.0 * mixed.stderr:
        return (
            "still training: the chains found a lower loss than the model's; "
            f"{lower}, or raise localization = {dynamics.localization:g}"
        )
    effect, error = biases.localization, biases.localization_error
    pull, strong = f"localization = {dynamics.localization:g}", ""
    bound = f"bound by localization: at least {mixed.mean:.3g} ± {mixed.stderr:.2g}; {pull}"
    if localized(effect, error):
        share = _share(effect, error)
        strong = f"{bound} takes {share}; lower it"
        if effect < 0:  # and what it raises is no bound
            strong = (
                f"localization too strong: it raises the mean of {mixed.mean:.3g} by {share}; "
                f"lower {pull}"
            )
    # Where chains do not tell what it takes, the curvature does: half of every direction or more.
    if not error <= LARGEST_LOCALIZATION_EFFECT and biases.localization_least > HELD:
        strong = (
            f"{bound} holds chains more than the loss does, at least "
            f"{biases.localization_least:.0%} of every direction; lower it"
        )
    # A NaN bias says nothing; a NaN error, of too few draws, excuses none.
    low, bias = biases.added()
    if bias > LARGEST_STEP_BIAS * abs(mixed.mean) and not bias <= mixed.stderr:
        added = f"about {bias:.2g}" if low == bias else f"{low:.2g} to {bias:.2g}"
        return (
            f"step too large: finite steps and minibatches add {added} to the mean of "
            f"{mixed.mean:.3g}; {lower}{'; ' + strong if strong else ''}"
        )
    if saturated(biases.degree, biases.degree_error):
        return (
            f"localization too weak: chains of mean {mixed.mean:.3g} are where the loss grows with "
            f"the distance to the power {biases.degree:.2g} only (2 near a minimum), far from the "
            f"weights; raise {pull}, or nbeta"
        )
    if math.isnan(mixed.rhat):
        return "too few draws: fewer than four of each chain"
    if mixed.rhat > LARGEST_RHAT or mixed.ess < LEAST_ESS:
        return (
            f"too few draws: R-hat {mixed.rhat:.2f}, {mixed.ess:.0f} effective draws; "
            "more draws, or a longer burn_in"
        )
    enough = f"R-hat {mixed.rhat:.{2 + (mixed.rhat < 1.1)}f}, {mixed.ess:.0f} effective draws"
    if strong:
        return strong
    if error > LARGEST_LOCALIZATION_EFFECT:
        enough += f"; what {pull} takes of it is not known: {effect:.0%} ± {error:.0%}"
    elif localized(effect, error, TOLD_LOCALIZATION_EFFECT):
        enough += f"; {pull} takes about {effect:.0%} ± {error:.0%} of it"
    # Either way: noise of minibatches that grows with the loss keeps chains where it is small.
    if bias > mixed.stderr:
        enough += f"; finite steps and minibatches may change it by about {bias:.2g}"
    converged = mixed.rhat <= CONVERGED_RHAT and mixed.ess >= CONVERGED_ESS
    return f"{'converged' if converged else 'usable'}: {enough}"


def settled(verdict: str) -> bool:
    """Whether chains are where they belong, with the localization that they have."""
    return believable(verdict) or localizing(verdict)


def _share(effect: float, error: float) -> str:
    """What localization takes: the effect itself for a quadratic, less of it where it is large."""
    return f"about {abs(effect):.0%} ± {error:.0%}" if abs(effect) <= 0.5 else "about half or more"
