"""What the kept draws of chains say of other data than they sample from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geomfast.estimators.sampling.diagnostics import localization_effect, mixing
from geomfast.estimators.sampling.estimate import LLC
from geomfast.estimators.sampling.verdict import Biases, verdict_of
from geomfast.kernels.sgld import Dynamics

#: How the verdict begins on a coefficient of data that the weights are no minimum of.
NO_MINIMUM = "no minimum of this data"


@dataclass(frozen=True)
class Observed:
    """The loss on a data set over the draws of chains that sample from another one.

    Attributes:
        mean_loss: over the data and the kept draws, in units of the loss.
        initial_loss: over the data, at the model's own weights.
        mean: nbeta (mean_loss - initial_loss), nbeta of the chains: the coefficient of this data
            within the chains' distribution. Coefficients of parts of the chains' data, weighted by
            their share of it, add up to the chains' own. It is not that of chains which sample from
            this data alone.
        stderr: Monte Carlo standard error of `mean`; that of `mean_loss` is stderr / nbeta.
        per_chain: (C,) float64 coefficients, NaN for a chain that has diverged.
        loss_trace: (C, draws) float64, mean loss over the data at each kept draw.
        diverged: (C,) bool: chains that diverged, or at whose draws a loss of this data is not
            finite; they do not count.
        rhat: split R-hat of the kept draws; NaN for fewer than four.
        ess: their effective sample size.
        localization_effect, localization_effect_stderr: share of the mean that localization takes,
            as in `LLC`.
        verdict: as that of `LLC`: converged, or what is wrong and what to change. "no minimum of
            this data" for a mean loss that is lower than that of the weights.
        nbeta: of the chains.
    """

    mean_loss: float
    initial_loss: float
    mean: float
    stderr: float
    per_chain: Tensor
    loss_trace: Tensor
    diverged: Tensor
    rhat: float
    ess: float
    localization_effect: float
    localization_effect_stderr: float
    verdict: str
    nbeta: float


def observed(trace: Tensor, initial: float, run: LLC) -> Observed:
    """An observable's coefficient.

    Args:
        trace: (C, D) float64, its mean loss at each kept draw.
        initial: its mean loss at the model's own weights.
        run: the estimate of the same chains.
    """
    nan = math.nan
    diverged = run.diverged | ~trace.isfinite().all(1)
    energies = run.nbeta * (trace - initial)
    per_chain = torch.where(diverged, torch.nan, energies.mean(1))
    if diverged.all():
        verdict = f"diverged: all {len(diverged)} chains on this data; lower lr = {run.lr:g}"
        return Observed(
            nan, initial, nan, nan, per_chain, trace, diverged, nan, nan, nan, nan, verdict,
            run.nbeta,
        )  # fmt: skip
    kept = energies[~diverged]
    mixed = mixing(kept)
    squared = run.distance[~diverged, run.distance.shape[1] - trace.shape[1] :].square()
    pull = localization_effect(kept, squared, run.localization)
    dynamics = Dynamics(run.lr, run.nbeta, run.localization, run.momentum)
    # What steps add is known of the chains' own loss; taken for the same share of this one.
    bias = run.step_bias / run.mean * mixed.mean if run.mean else nan
    biases = Biases(bias, run.degree, run.degree_stderr, *pull, run.localization_least)
    if not diverged.any() and mixed.mean < -2.0 * mixed.stderr:
        verdict = (
            f"{NO_MINIMUM}: its loss falls by {-mixed.mean / run.nbeta:.3g} where the chains go; "
            "the mean loss holds, and is no coefficient"
        )
    else:
        verdict = verdict_of(mixed, diverged, biases, dynamics)
    return Observed(
        mean_loss=trace[~diverged].mean().item(),
        initial_loss=initial,
        mean=mixed.mean,
        stderr=mixed.stderr,
        per_chain=per_chain,
        loss_trace=trace,
        diverged=diverged,
        rhat=mixed.rhat,
        ess=mixed.ess,
        localization_effect=pull[0],
        localization_effect_stderr=pull[1],
        verdict=verdict,
        nbeta=run.nbeta,
    )
