"""What to make of chains, in words, and what to change."""

from __future__ import annotations

import math

from torch import Tensor

from geomfast.kernels.sgld import Dynamics
from geomfast.measures.sampling.diagnostics import Mixing

#: Above which chains disagree, and below which there are too few draws (Vehtari et al. 2021
#: recommend 1.01 and 400; a coefficient to two digits needs less).
LARGEST_RHAT = 1.1
LEAST_ESS = 20.0
#: Above which part of the estimate comes from the size of the steps.
LARGEST_STEP_BIAS = 0.1


def verdict_of(mixed: Mixing, diverged: Tensor, step_bias: float, dynamics: Dynamics) -> str:
    """The first of these that holds: diverged, still training, step too large, too few, converged.

    Args:
        mixed: of the kept draws.
        diverged: (C,) bool.
        step_bias: in the mean, NaN where it is not known.
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
    # A NaN bias, with a preconditioner, says nothing; a NaN error, of too few draws, excuses none.
    if step_bias > LARGEST_STEP_BIAS * abs(mixed.mean) and not step_bias <= mixed.stderr:
        return (
            f"step too large: finite steps and minibatches add about {step_bias:.2g} to the mean "
            f"of {mixed.mean:.3g}; {lower}"
        )
    if math.isnan(mixed.rhat):
        return "too few draws: fewer than four of each chain"
    if mixed.rhat > LARGEST_RHAT or mixed.ess < LEAST_ESS:
        return (
            f"too few draws: R-hat {mixed.rhat:.2f}, {mixed.ess:.0f} effective draws; "
            "more draws, or a longer burn_in"
        )
    return f"converged: R-hat {mixed.rhat:.2f}, {mixed.ess:.0f} effective draws"
