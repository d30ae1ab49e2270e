"""An estimate of the local learning coefficient from what chains have seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geomfast.estimators.entries import sizes_of
from geomfast.estimators.sampling.chains import Sampling, Traces
from geomfast.estimators.sampling.diagnostics import (
    acceptance,
    degree,
    degree_of_products,
    heating,
    localization_effect,
    localization_effect_of_products,
    mixing,
    step_bias,
)
from geomfast.estimators.sampling.rules import max_energy_curvature
from geomfast.estimators.sampling.verdict import Biases, verdict_of

if TYPE_CHECKING:  # both are made of this module
    from geomfast.estimators.sampling.kept import SampledLosses
    from geomfast.estimators.sampling.observed import Observed


@dataclass(frozen=True)
class LLC:
    """An estimate of the local learning coefficient, and what says how far to believe it.

    Attributes:
        mean: the estimate, over the kept draws of the chains that have not diverged.
        stderr: Monte Carlo standard error of the mean.
        per_chain: (C,) float64, NaN for a chain that has diverged.
        loss_trace: (C, burn_in + draws) float64, minibatch losses; NaN from where one diverged.
        excess_trace: (C, burn_in + draws), the same less the loss of the same minibatch at the
            model's own weights: nbeta times its mean over kept draws is the estimate.
        initial_loss: of the model's own weights, over all of the data.
        diverged: (C,) bool.
        rhat: split R-hat of the kept draws; NaN for fewer than four.
        ess: their effective sample size.
        step_bias: what finite steps, and the noise of minibatches in them, would add to the mean
            were the loss quadratic; exact for one without minibatches. A loss of degree k gets
            about 2/k of it, so it tells when to lower lr and is nothing to subtract. NaN with a
            preconditioner.
        degree: power of |w - w0| with which the loss grows where the draws are,
            E[(w - w0).grad L] / E[L]: 2 for a quadratic, more for one that is flat at w0. NaN for
            fewer than four draws, or where the mean is within two standard errors of zero.
        degree_stderr: its standard error; beyond half of it where parameters are many, for which
            nothing can be said.
        localization_effect: what share of the mean localization takes, to first order:
            -d log mean / d log localization, from the covariance of the draws' losses with their
            distances. (localization / (nbeta h + localization)) for a quadratic of curvature h,
            near 0 where the loss alone holds the chains, above 1 where the localization does;
            negative where losses fall with the distance. Below 0.1 the mean is that of the loss
            alone to about as much, but for losses that converge with the logarithm of n, such as
            (x w)^2. NaN for fewer than four draws, or a mean within two standard errors of zero.
        localization_effect_stderr: its standard error.
        acceptance: mean probability of a Metropolis test to accept a kept step; near 1 where the
            step is small and takes all of the data. NaN with momentum.
        distance: (C, burn_in + draws), |w - w0| before each step.
        verdict: in words: converged, or what is wrong and what to change.
        nbeta: that was used.
        stacked: chains that ran as one program.
        lr, momentum, localization: that were used; momentum is None for plain steps.
        localization_least: the least that localization can take of a direction, its share of the
            energy's curvature in the steepest; NaN where the loss's curvature is not known.
        limit: the coefficient without localization, as a calibration extrapolates it; NaN where it
            does not tell, or none was made.
        limit_stderr: its standard error.
        observed: name -> `Observed`: the loss on data that was observed, and its coefficient.
        losses: of every sample at every kept draw; None where they were not to be kept.
    """

    mean: float
    stderr: float
    per_chain: Tensor
    loss_trace: Tensor
    excess_trace: Tensor
    initial_loss: float
    diverged: Tensor
    rhat: float
    ess: float
    step_bias: float
    degree: float
    degree_stderr: float
    localization_effect: float
    localization_effect_stderr: float
    acceptance: float
    distance: Tensor
    verdict: str
    nbeta: float
    stacked: int
    lr: float
    momentum: float | None
    localization: float
    localization_least: float
    limit: float = math.nan
    limit_stderr: float = math.nan
    observed: Mapping[str, Observed] = field(default_factory=dict)
    losses: SampledLosses | None = None


def estimate(
    sampling: Sampling, traces: Traces, burn_in: int, stacked: int, ending: str = ""
) -> LLC:
    """Over the draws after burn_in of the chains that stayed, of which there must be one.

    Args:
        sampling: what was run.
        traces: of all chains.
        burn_in: steps before the first draw that counts.
        stacked: chains that ran as one program.
        ending: why the chains did not run on, for the verdict.
    """
    dynamics = sampling.dynamics
    by = (dynamics.lr, dynamics.nbeta, dynamics.localization)
    good = ~traces.diverged
    energies = dynamics.nbeta * traces.excess[:, burn_in:]
    kept, statistics = energies[good], traces.statistics[good, burn_in:]
    mixed = mixing(kept)
    pull = localization_effect(kept, statistics[..., 0], dynamics.localization)
    if dynamics.momentum is not None:
        accepted = math.nan
        bias = heating(statistics, dynamics.lr, dynamics.momentum)
        power = degree_of_products(kept, statistics, dynamics.lr)
        if sampling.batch_size is None and dynamics.localization:
            other = localization_effect_of_products(kept, statistics, dynamics.lr)
            pull = min(pull, other, key=lambda effect: effect[1])
    else:
        # Of losses less those at w0, which takes most of their minibatches out of the difference.
        of = (traces.excess[good], traces.statistics[good])
        accepted = acceptance(*of, *by)[:, max(burn_in - 1, 0) :].mean().item()
        bias = step_bias(*of, *by)[:, burn_in:].mean().item()
        size = sum(sizes_of(sampling.parameters).values())
        power = degree(kept, statistics, dynamics.lr, dynamics.localization, size)
    most = max_energy_curvature(dynamics.localization, dynamics.nbeta, sampling.curvature)
    least = math.nan if sampling.curvature is None or not most else dynamics.localization / most
    biases = Biases(bias, *power, *pull, least)
    return LLC(
        mean=mixed.mean,
        stderr=mixed.stderr,
        per_chain=torch.where(good, energies.mean(1), torch.nan),
        loss_trace=traces.losses,
        excess_trace=traces.excess,
        initial_loss=sampling.initial.mean().item(),
        diverged=traces.diverged,
        rhat=mixed.rhat,
        ess=mixed.ess,
        step_bias=bias,
        degree=power[0],
        degree_stderr=power[1],
        localization_effect=pull[0],
        localization_effect_stderr=pull[1],
        acceptance=accepted,
        distance=traces.statistics[..., 0].sqrt(),
        verdict=verdict_of(mixed, traces.diverged, biases, dynamics) + ending,
        nbeta=dynamics.nbeta,
        stacked=stacked,
        lr=dynamics.lr,
        momentum=dynamics.momentum,
        localization=dynamics.localization,
        localization_least=least,
    )


def require_own_losses(sampling: Sampling, traces: Traces) -> None:
    """Raises where samples' losses at the model's own weights are others in a chain's batch.

    Chains begin there, so that their first excess is zero but for rounding.

    Raises:
        ValueError: with the first such chain, and both losses.
    """
    first, excess = traces.losses[:, 0], traces.excess[:, 0]
    scale = torch.maximum(first.abs(), sampling.initial.abs().mean().cpu())
    # As in `geomfast.estimators.checks.require_equal_losses`; NaN is another fault.
    for chain in (excess.abs() > 1e-5 + 1e-3 * scale).nonzero()[:1, 0].tolist():
        loss, other = first[chain].item(), (first - excess)[chain].item()
        raise ValueError(
            f"the first minibatch of chain {chain} has a mean loss of {loss:.6g} at the model's "
            f"own weights, where the same samples had {other:.6g} in another batch: their losses "
            "depend on the other samples of a batch, or are random; take what samples share, such "
            "as statistics of the batch or contrasts between its samples, out of loss_fn and the "
            "model"
        )
