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
#: Below which steps are so large that what they sample is not the posterior.
LEAST_ACCEPTANCE = 0.3


def verdict_of(mixed: Mixing, diverged: Tensor, acceptance: float, dynamics: Dynamics) -> str:
    """The first of these that holds: diverged, step too large, still training, too few, converged.

    Args:
        mixed: of the kept draws.
        diverged: (C,) bool.
        acceptance: of the kept steps, NaN where it is not known.
        dynamics: of the steps.
    """
    lower = f"lower lr = {dynamics.lr:g}"
    lost = int(diverged.sum())
    if lost:
        return f"diverged: {lost} of {len(diverged)} chains left; {lower}"
    if acceptance < LEAST_ACCEPTANCE:
        return (
            f"step too large: a Metropolis test would accept {acceptance:.0%} of the steps; {lower}"
        )
    if mixed.mean < -2.0 * mixed.stderr:
        return (
            "still training: the chains found a lower loss than the model's; "
            f"{lower}, or raise localization = {dynamics.localization:g}"
        )
    if math.isnan(mixed.rhat) or mixed.rhat > LARGEST_RHAT or mixed.ess < LEAST_ESS:
        return (
            f"too few draws: R-hat {mixed.rhat:.2f}, {mixed.ess:.0f} effective draws; "
            "more draws, or a longer burn_in"
        )
    return f"converged: R-hat {mixed.rhat:.2f}, {mixed.ess:.0f} effective draws"
