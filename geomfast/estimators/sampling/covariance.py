"""Covariances over the draws of chains, with errors that know of autocorrelation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geomfast.estimators.batches import shuffled
from geomfast.estimators.sampling.diagnostics import Mixing, mixing, widened
from geomfast.estimators.sampling.rules import (
    CONVERGED_ESS,
    CONVERGED_RHAT,
    LARGEST_RHAT,
    LEAST_ESS,
    believable,
    localizing,
)

#: Samples whose series are looked at, of a data set, for autocorrelation times and R-hat.
LOOKED_AT = 16
# Batches are so many autocorrelation times long, or longer. Of products, whose correlations are
# squared, about 8% of the variance of a mean is missed then.
_TIMES = 3.0
# Of fewer batches no error is told.
_LEAST_BATCHES = 3


@dataclass(frozen=True)
class Batching:
    """How draws are cut into batches, and how far the chains are to be believed.

    Attributes:
        length: draws of a batch.
        worst: R-hat and effective draws, the worst of all series that were looked at.
    """

    length: int
    worst: Mixing

    def stderr(self, means: Tensor, draws: int) -> Tensor:
        """Standard error of the mean of all draws, widened for few batches.

        Args:
            means: (K, ...) of the batches.
            draws: of all chains together.
        """
        batches = len(means)
        if batches < _LEAST_BATCHES:
            return torch.full_like(means[0], torch.nan)
        return (means.var(0) * (self.length / draws)).sqrt() * widened(batches - 1)


def batching(*series: Tensor) -> Batching:
    """Batches for means over draws.

    Args:
        series: (C, D) or (C, D, N) float64 of the same chains; of N some are looked at.
    """
    draws = series[0].shape[1]
    time, rhat, ess = 1.0, 1.0, math.inf
    for one in series:
        columns = [one] if one.dim() == 2 else _some(one)
        for column in columns:
            mixed = mixing(column.contiguous())
            if math.isnan(mixed.ess):
                return Batching(draws, mixed)
            time = max(time, column.numel() / mixed.ess)
            rhat, ess = max(rhat, mixed.rhat), min(ess, mixed.ess)
    length = min(draws, max(math.ceil(math.sqrt(draws)), math.ceil(_TIMES * time)))
    return Batching(length, Mixing(math.nan, math.nan, rhat, ess))


def _some(series: Tensor) -> list[Tensor]:
    """The mean over samples, and series of a few that a fixed seed draws."""
    flat = series.flatten(2)
    flat = flat[..., ~flat.isnan().all(1).all(0)]
    which = shuffled(flat.shape[2])[:LOOKED_AT].tolist()
    return [flat.mean(2), *(flat[..., i] for i in which)]


def batched(x: Tensor, length: int) -> Tensor:
    """(C, D, ...) -> (K, length, ...): the last draws of each chain, in batches."""
    chains, draws = x.shape[:2]
    number = draws // length
    kept = x[:, draws - number * length :]
    return kept.reshape(chains * number, length, *x.shape[2:])


@dataclass(frozen=True)
class Covariance:
    """Covariances and correlations of two sets of series, with standard errors, all (A, B)."""

    covariance: Tensor
    covariance_stderr: Tensor
    correlation: Tensor
    correlation_stderr: Tensor


def covariance(a: Tensor, b: Tensor, how: Batching) -> Covariance:
    """Covariances over all draws of all chains, around the mean of all, and their errors.

    Errors are those of batch means (Flegal and Jones 2010, doi:10.1214/09-AOS735): of the products
    of deviations, and for correlations of what these change to first order. Chains that disagree
    widen them, since batches of different chains then differ.

    Args:
        a: (C, D, A) float64.
        b: (C, D, B).
        how: the batches.
    """
    draws = a.shape[0] * a.shape[1]
    a, b = (x - x.mean((0, 1)) for x in (a, b))
    shares = (draws - 1) / draws
    found = torch.einsum("cda,cdb->ab", a, b) / (draws - 1)
    deviation_a, deviation_b = (x.square().sum((0, 1)).div(draws - 1).sqrt() for x in (a, b))
    scale = deviation_a[:, None] * deviation_b
    correlation = torch.where(scale > 0, found / scale, torch.nan)
    u, v = (batched(x, how.length) for x in (a, b))
    batches = len(u)
    if batches < _LEAST_BATCHES:
        unknown = torch.full_like(found, torch.nan)
        return Covariance(found, unknown, correlation, unknown)
    # One batch after the other: all of their matrices would be as large as all draws' products.
    sums = [torch.zeros_like(found) for _ in range(4)]
    for one_a, one_b in zip(u, v, strict=True):
        products = one_a.mT @ one_b / how.length
        squares = (one_a.square().mean(0) / deviation_a.square())[:, None]
        squares = squares + one_b.square().mean(0) / deviation_b.square()
        linear = products / scale - 0.5 * correlation * squares
        products = products - shares * found
        for total, x in zip(sums, (products, products**2, linear, linear**2), strict=True):
            total += x
    factor = how.length / draws / (batches - 1)
    errors = [
        ((square - total**2 / batches).clamp_min(0.0) * factor).sqrt() * widened(batches - 1)
        for total, square in (sums[:2], sums[2:])
    ]
    return Covariance(found, errors[0], correlation, errors[1])


def verdict(worst: Mixing, of_run: str = "") -> str:
    """What to make of numbers from chains' draws: as of a coefficient, as far as it applies.

    Args:
        worst: of all series.
        of_run: the verdict of the chains' own coefficient; empty where there is none.
    """
    # Localization is part of the distribution that covariances are of.
    fine = believable(of_run) or localizing(of_run) or of_run.startswith("too few draws")
    if of_run and not fine:
        return of_run
    if math.isnan(worst.rhat):
        return "too few draws: fewer than four of each chain"
    said = f"R-hat {worst.rhat:.3f}, {worst.ess:.0f} effective draws, the worst of the losses"
    if worst.rhat > LARGEST_RHAT or worst.ess < LEAST_ESS:
        return f"too few draws: {said}; more draws, or a longer burn_in"
    good = worst.rhat <= CONVERGED_RHAT and worst.ess >= CONVERGED_ESS
    return f"{'converged' if good else 'usable'}: {said}"
