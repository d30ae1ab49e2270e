"""An estimate as the values that records name: the value, and what says how far to believe it.

Sweeps, series of checkpoints and live trackers record the same values of the same estimates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.checks import LossFunction
from geomfast.estimators.gradients import GradientRanks
from geomfast.estimators.hessian import (
    NotConverged,
    hessian_density,
    hessian_top_eigenvalues,
    hessian_trace,
)
from geomfast.estimators.llc import LLC

#: Name, value, standard error (NaN where none is defined).
Value = tuple[str, float, float]
#: Shares of the eigenvalues below which those recorded of a density lie.
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
#: Rank of gradients by the name it is recorded by.
_RANKS = {"fisher_rank": "fisher", "gradient_covariance_rank": "covariance"}


def gradient_values(name: str, exact: GradientRanks, first: GradientRanks) -> list[Value]:
    """The rank over all parameters, and over the first entries.

    Args:
        name: ``fisher_rank`` or ``gradient_covariance_rank``.
        exact, first: of :func:`geomfast.estimators.gradients.gradient_ranks`.
    """
    field = _RANKS[name]
    pairs = (("", exact), ("_first_50k", first))
    return [(name + suffix, getattr(ranks, field), math.nan) for suffix, ranks in pairs]


def hessian_values(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    name: str,
    *,
    start: Tensor | None = None,
    **options: Any,
) -> tuple[list[Value], Tensor | None]:
    """One measure of the Hessian.

    Of the top eigenvalue the standard error is its residual: an eigenvalue lies within it. One
    that has not converged is recorded with the residual that it has.

    Args:
        model, loss_fn, data: as everywhere in geomfast.
        name: ``hessian_top``, ``hessian_trace`` or ``hessian_density``.
        start: vectors near the top eigenvectors, from an earlier checkpoint say.
        options: of the function that computes the measure.

    Returns:
        The values, and for ``hessian_top`` the eigenvectors (k, P) that were found.
    """
    if name == "hessian_top":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConverged)  # its residual is recorded
            found = hessian_top_eigenvalues(model, loss_fn, data, start=start, **options)
        value, residual = found.values[0].item(), found.residuals[0].item()
        iterations = (f"{name}_iterations", float(found.iterations), math.nan)
        return [(name, value, residual), iterations], found.vectors
    if name == "hessian_trace":
        trace = hessian_trace(model, loss_fn, data, **options)
        return [(name, trace.mean, trace.stderr)], None
    density = hessian_density(model, loss_fn, data, **options)
    below = torch.cumulative_trapezoid(density.density, density.grid)
    values = []
    for share in QUANTILES:
        at = int(torch.searchsorted(below, share).clamp_max(len(below) - 1))
        values.append((f"{name}_q{round(100 * share):02d}", density.grid[at + 1].item(), math.nan))
    return values, None


def llc_values(found: LLC | None, chains: int) -> Iterator[Value]:
    """A local learning coefficient, each value with what says how far to believe it.

    Args:
        found: None where all chains have diverged: the coefficient is NaN then.
        chains: that were run.
    """
    nan = math.nan
    yield "llc", *((found.mean, found.stderr) if found else (nan, nan))
    yield "llc_diverged", float(found.diverged.sum() if found else chains), nan
    for name in ("rhat", "ess", "step_bias", "acceptance"):
        yield f"llc_{name}", getattr(found, name) if found else nan, nan
    effect = (found.localization_effect, found.localization_effect_stderr) if found else (nan, nan)
    yield "llc_localization_effect", *effect
