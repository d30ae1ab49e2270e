"""Local learning coefficient: how degenerate a loss is around a model's weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from geomfast.kernels.sgld import Dynamics, RmsProp
from geomfast.measures.checks import (
    LossFunction,
    RefuseDropout,
    batches_of,
    checked_losses,
    chosen,
    count,
    refuse_coupled,
)
from geomfast.measures.sampling.chains import Sampling, Traces, group_size, run_chains
from geomfast.measures.sampling.diagnostics import acceptance, mixing
from geomfast.measures.sampling.verdict import verdict_of


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
        acceptance: mean probability of a Metropolis test to accept a kept step; near 1 where the
            step is small enough. NaN with a preconditioner.
        distance: (C, burn_in + draws), |w - w0| before each step.
        verdict: in words: converged, or what is wrong and what to change.
        nbeta: that was used.
        stacked: chains that ran as one program.
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
    acceptance: float
    distance: Tensor
    verdict: str
    nbeta: float
    stacked: int


def llc(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    lr: float,
    nbeta: float | None = None,
    localization: float = 100.0,
    chains: int = 4,
    draws: int = 200,
    burn_in: int = 50,
    batch_size: int | None = None,
    preconditioner: RmsProp | str | None = None,
    seed: int = 0,
    params: Iterable[str] | None = None,
    common_batches: bool = False,
    stacked: bool | None = None,
    curvature: float | None = None,
    progress: Callable[[int], None] = lambda steps: None,
) -> LLC:
    r"""Local learning coefficient by stochastic gradient Langevin dynamics.

    Lau et al. (2023), arXiv:2308.12108: chains that start at the model's weights w0 move by
    dw = -(lr/2) [nbeta grad L_m(w) + localization (w - w0)] + sqrt(lr) noise, and the estimate is
    nbeta times the mean of L_m(w) - L_m(w0) over their draws after burn_in. Taking the loss at w0
    of the same minibatch changes nothing in the mean, and takes the minibatch out of the variance.

    Args:
        model: any module. Its mode, gradients and parameters stay as they are; one of fewer bits
            is sampled in float32.
        loss_fn: `loss_fn(model, batch) -> (N,)`, one differentiable loss per sample.
        data: one batch (a tensor, tuple or mapping), or an iterable of batches; of n samples in
            all. Other data than the model was trained on gives the data-refined coefficient.
        lr: step size. Lower it where the verdict says so; `geomfast calibrate-llc` looks for one.
        nbeta: inverse temperature times number of samples; None for n / log n.
        localization: strength of the pull back to w0.
        chains: C, independent of each other.
        draws: kept of each chain, one a step.
        burn_in: steps of each chain before the first draw that counts.
        batch_size: of a minibatch; None for all of the data at every step.
        preconditioner: "rmsprop", or an `RmsProp` with its own constants; None for none.
        seed: of noise and minibatches.
        params: names of parameters, with shell wildcards, that are sampled while the others stay:
            the weight-refined coefficient. None for all that require gradients.
        common_batches: give all chains the same minibatches.
        stacked: run chains as one program (True) or one after the other (False); None for what is
            faster. The noise and the minibatches are the same.
        curvature: largest eigenvalue of the Hessian of the mean loss, where it is known: a step
            size for which the chains cannot be stable is refused.
        progress: called with the chain steps done since it was last called.

    Returns:
        `mean`, `stderr`, `per_chain`, `loss_trace`, `diverged`, `rhat`, `ess`, `acceptance`,
        `verdict` and more: see `LLC`.

    Raises:
        TypeError: loss_fn does not return a floating-point tensor.
        ValueError: bad arguments; no data, or less than a minibatch; a reduced loss; a loss or
            gradient with NaN or infinity at w0; a parameter that does not reach the loss; dropout,
            or batch normalisation in training mode; all chains have diverged.
    """
    _require_positive(lr=lr, draws=draws, chains=chains)
    if burn_in < 0:
        raise ValueError(f"burn_in must be 0 or more, not {burn_in}")
    if not localization >= 0:
        raise ValueError(f"localization must be 0 or more, not {localization}")
    if nbeta is not None:
        _require_positive(nbeta=nbeta)
    elif isinstance(data, Iterator):
        raise ValueError("nbeta must be given: data is an iterator, whose n samples are not known")
    refuse_coupled(model)
    model = _in_full_precision(model)
    parameters, _ = chosen(model, params)
    batches = batches_of(data)
    samples = sum(count(batch, least=1) for batch in batches)
    if batch_size is not None:
        _require_positive(batch_size=batch_size)
        if batch_size > samples:
            raise ValueError(
                f"batch_size = {batch_size} is more than the {samples} samples of data"
            )
    if nbeta is None:
        if samples < 2:
            raise ValueError("nbeta must be given: n / log n of a single sample is not a number")
        nbeta = samples / math.log(samples)
    _require_stable(lr, nbeta, localization, curvature)
    sampling = Sampling(
        model,
        loss_fn,
        parameters,
        batches,
        _initial_losses(model, loss_fn, batches, batch_size),
        Dynamics(lr, nbeta, localization, _preconditioner(preconditioner)),
        batch_size,
        burn_in + draws,
        seed,
        common_batches,
    )
    group = group_size(sampling, chains, stacked)
    traces = Traces.joined(
        [
            run_chains(sampling, first, min(group, chains - first), progress)
            for first in range(0, chains, group)
        ]
    )
    return _estimate(sampling, traces, burn_in, group)


def _estimate(sampling: Sampling, traces: Traces, burn_in: int, stacked: int) -> LLC:
    dynamics = sampling.dynamics
    if traces.diverged.all():
        last = int(torch.isfinite(traces.losses).sum(1).max())
        raise ValueError(
            f"all {len(traces.diverged)} chains have diverged, the last after {last} steps: lower "
            f"lr = {dynamics.lr:g}, or raise localization = {dynamics.localization:g}"
        )
    good = ~traces.diverged
    kept = dynamics.nbeta * traces.excess[:, burn_in:]
    mixed = mixing(kept[good])
    accepted = math.nan
    if dynamics.preconditioner is None:
        # Of losses less their minibatch's first ones: the same number is added to both energies.
        every = acceptance(
            traces.excess,
            traces.statistics,
            dynamics.lr,
            dynamics.nbeta,
            dynamics.localization,
        )
        accepted = every[good][:, max(burn_in - 1, 0) :].mean().item()
    return LLC(
        mean=mixed.mean,
        stderr=mixed.stderr,
        per_chain=torch.where(good, kept.mean(1), torch.nan),
        loss_trace=traces.losses,
        excess_trace=traces.excess,
        initial_loss=sampling.initial.mean().item(),
        diverged=traces.diverged,
        rhat=mixed.rhat,
        ess=mixed.ess,
        acceptance=accepted,
        distance=traces.statistics[..., 0].sqrt(),
        verdict=verdict_of(mixed, traces.diverged, accepted, dynamics),
        nbeta=dynamics.nbeta,
        stacked=stacked,
    )


def _initial_losses(
    model: nn.Module, loss_fn: LossFunction, batches: list[Any], batch_size: int | None
) -> Tensor:
    """(n,) float64: the loss of every sample at the model's own weights, a minibatch at a time."""
    found = []
    with torch.no_grad(), RefuseDropout():
        for number, batch in enumerate(batches):
            samples = count(batch, least=1)
            step = samples if batch_size is None else batch_size
            for first in range(0, samples, step):
                part = tree_map(lambda x, first=first, step=step: x[first : first + step], batch)
                losses = loss_fn(model, part)
                losses = checked_losses(losses, min(step, samples - first), differentiable=False)
                bad = ~torch.isfinite(losses)
                if bad.any():
                    sample = first + int(bad.nonzero()[0])
                    raise ValueError(
                        f"the loss of sample {sample} of batch {number} is not finite at the "
                        "model's own weights"
                    )
                found.append(losses.double())
    return torch.cat(found)


def _in_full_precision(model: nn.Module) -> nn.Module:
    """The model, or a copy in float32 where a small step would be lost in fewer bits."""
    if all(p.dtype in (torch.float32, torch.float64) for p in model.parameters()):
        return model
    return copy.deepcopy(model).float()


def _preconditioner(name: RmsProp | str | None) -> RmsProp | None:
    if name is None or isinstance(name, RmsProp):
        return name
    if name != "rmsprop":
        raise ValueError(f"preconditioner must be 'rmsprop' or None, not {name!r}")
    return RmsProp()


def _require_stable(lr: float, nbeta: float, localization: float, curvature: float | None) -> None:
    """A chain on a quadratic of curvature h is stable where lr (nbeta h + localization) < 4."""
    steepest = nbeta * max(curvature or 0.0, 0.0) + localization
    if lr * steepest >= 4.0:
        of = f"nbeta * curvature + localization = {steepest:.4g}"
        raise ValueError(
            f"lr = {lr:g} is too large: chains are stable only below 4 / ({of}) = "
            f"{4.0 / steepest:.3g}"
        )


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive, not {value}")
