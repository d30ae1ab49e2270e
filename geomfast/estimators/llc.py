"""Local learning coefficient: how degenerate a loss is around a model's weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from geomfast.estimators.arguments import (
    check_flag,
    check_loss,
    check_model,
    check_number,
    check_whole,
    kind,
)
from geomfast.estimators.batches import batches_of, count, warn_of_order
from geomfast.estimators.calls import measurable, require_sound
from geomfast.estimators.checks import (
    LossFunction,
    check_sample_independence,
    refuse_projected,
)
from geomfast.estimators.entries import select_entries
from geomfast.estimators.sampling.chains import Sampling, size_and_norm
from geomfast.estimators.sampling.estimate import LLC
from geomfast.estimators.sampling.initial import all_parts, initial_losses, require_used
from geomfast.estimators.sampling.keeping import Keeping, check_keeping
from geomfast.estimators.sampling.rules import (
    BURN_IN,
    CHAINS,
    DRAWS,
    LOCALIZATION,
    PILOT_DRAWS,
    STABLE,
    max_energy_curvature,
    norm_localization,
    usual_nbeta,
)
from geomfast.estimators.sampling.run import (
    AllChainsDiverged,
    Chains,
    Pilot,
    estimate_of,
    run_chains,
)
from geomfast.estimators.sampling.sequential import GOAL, goal_of
from geomfast.kernels.sgld import Dynamics

__all__ = ["LLC", "AllChainsDiverged", "llc"]


def llc(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    lr: float | Literal["auto"] = "auto",
    nbeta: float | None = None,
    localization: float | Literal["norm"] | None = None,
    chains: int = CHAINS,
    draws: int | None = None,
    burn_in: int | None = None,
    batch_size: int | None = None,
    momentum: float | None = None,
    preconditioner: None = None,
    seed: int = 0,
    params: Iterable[str] | None = None,
    common_batches: bool = False,
    stacked: bool | None = None,
    at_once: int | None = None,
    curvature: float | None = None,
    stderr: float | None = None,
    relative_stderr: float | None = None,
    max_draws: int | None = None,
    max_seconds: float | None = None,
    progress: Callable[[int], None] = lambda steps: None,
    observe: Mapping[str, Any] | None = None,
    keep_losses: bool | str | Path = False,
) -> LLC:
    r"""Local learning coefficient by stochastic gradient Langevin dynamics.

    Lau et al. (2023), arXiv:2308.12108: chains that start at the model's weights w0 move by
    dw = -(lr/2) [nbeta grad L_m(w) + localization (w - w0)] + sqrt(lr) noise, and the estimate is
    nbeta times the mean of L_m(w) - L_m(w0) over their draws after burn_in. Taking the loss at w0
    of the same minibatch changes nothing in the mean, as minibatches are independent of each other,
    and takes most of the minibatch out of the variance.

    Args:
        model: any module. Its mode, gradients and parameters stay as they are; one of fewer bits
            is sampled in float32, with data of fewer bits taken to float32 too.
        loss_fn: `loss_fn(model, batch) -> (N,)`, one differentiable loss per sample.
        data: one batch (a tensor, or a tuple, list or mapping of tensors), or an iterable of
            batches; of n samples in all. Other data than the model was trained on gives the
            data-refined coefficient.
        lr: step size. "auto" finds one, and a momentum that goes with it: with a localization, from
            the largest curvature, lowered where finite steps turn out to add too much; without, on
            a ladder of localizations, which takes longer (`geomfast.calibrate_llc`).
        nbeta: inverse temperature times number of samples; None for n / log n.
        localization: strength of the pull back to w0, in units of nbeta times curvature. Where it,
            and not the loss, keeps the chains near, it lowers the estimate, and the verdict says
            so. "norm" for parameters / (|w0| / 4)^2, with which chains that nothing else holds
            stay within a quarter of |w0|. None for 100 beside a given lr, and otherwise for one
            that the ladder finds.
        chains: number C of independent chains.
        draws: number of kept draws of each chain, one a step; the least where an error is asked
            for. None for 100, or 30 for an error.
        burn_in: steps of each chain before the first draw that counts. None for 25, or what an
            automatic step needs.
        batch_size: samples of a minibatch, drawn anew at every step; None for all of the data.
        momentum: share c of the velocity that a step leaves, 0 to less than 1: steps of the
            Langevin equation with inertia (BAOAB, Leimkuhler and Matthews 2013), whose draws have
            the right spread where the loss is quadratic, so that lr may be several times as large;
            c = 0 to 0.7 suits most losses, more where localization is weak. None for the steps
            above, or for what goes with an automatic lr.
        preconditioner: None; RMSProp's, whose coefficients were 2 to 34% too large, is gone.
        seed: of noise and minibatches.
        params: names of parameters, with shell wildcards, that alone are sampled: the
            weight-refined coefficient; of single heads of attention as "MODULE head 1" or "MODULE
            heads 0-2", MODULE an attention's name or its block's ("blocks.0 head 1"). What begins
            with "!" is left out. None for all that require gradients.
        common_batches: whether all chains get the same minibatches.
        stacked: whether chains run as one program or one after the other, with the same noise and
            minibatches; None for what is faster.
        at_once: samples of a chain that go through the model together; fewer take less memory and
            give the same but for rounding. None for a minibatch, or batch, as it is.
        curvature: largest eigenvalue of the Hessian of the mean loss, where it is known: an
            automatic step follows from it, and one that is not stable is refused.
        stderr: standard error of the mean to draw for: chains run on until it is met by 100
            effective draws or more, or what follows ends them; the verdict says which. None for
            `draws` draws, after the ladder for an error of 3%.
        relative_stderr: the same as a share of the mean. Of both, both are met.
        max_draws: kept draws of each chain at most; None for 20,000 (or `draws`) for an error.
            Without one, chains run on from `draws` to it until R-hat is 1.05 or less, with 30
            effective draws; None for `draws`.
        max_seconds: seconds of sampling after which chains do not run on; None for no bound.
        progress: called with the chain steps done since it was last called.
        observe: other data whose losses are evaluated at every kept draw: name -> data, or name ->
            (loss_fn, data), whose loss_fn may return (N, T), one loss a token (NaN for none). They
            change nothing of the chains, and cost a forward pass of the data at each draw.
        keep_losses: True to keep the loss of every sample of data, and of what is observed, at
            every kept draw; the path of a new folder to write them there while the chains run,
            which takes little memory (`geomfast.load_losses`). With a batch_size that costs a
            forward pass of all data at each draw.

    Returns:
        `mean`, `stderr`, `per_chain`, `loss_trace`, `diverged`, `rhat`, `ess`, `step_bias`,
        `verdict`, `observed`, `losses` and more: see `LLC`.

    Raises:
        TypeError: an argument of another kind, named; loss_fn does not return a floating-point
            tensor.
        geomfast.files.FileError: keep_losses is a folder that holds something.
        ValueError: bad arguments; no data, or less than a minibatch; a reduced loss; a loss or
            gradient with NaN or infinity at w0; parameters that no loss uses, or that are complex;
            losses that are random or depend on other samples (the module, or a sample, is named); a
            table with a max_norm; all chains have diverged.
    """
    check_model(model)
    check_loss(loss_fn)
    check_flag(common_batches=common_batches)
    if stacked is not None:
        check_flag(stacked=stacked)
    if not callable(progress):
        raise TypeError(f"progress must be a function of a step, not {kind(progress)}")
    if localization is None and not isinstance(lr, str):
        localization = LOCALIZATION
    if localization is not None and localization != "norm":
        check_number(localization=localization)
        if not (localization >= 0 and math.isfinite(localization)):
            raise ValueError(f"localization must be 0 or more, not {localization}")
    if curvature is not None:
        check_number(curvature=curvature)
    if momentum is not None:
        check_number(momentum=momentum)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be 0 or more and less than 1, not {momentum}")
    if preconditioner is not None:
        raise ValueError(
            "preconditioner must be None: coefficients with RMSProp's were 2 to 34% too large; "
            "momentum allows for larger steps without a bias"
        )
    check_keeping(observe, keep_losses)
    if keep_losses:
        # What is observed may come with a loss function of its own.
        seen = {
            name: one[1] if isinstance(one, tuple) and len(one) == 2 else one
            for name, one in (observe or {}).items()
        }
        warn_of_order({"data": data, **seen})
    own = {
        "nbeta": nbeta, "chains": chains, "draws": draws, "burn_in": burn_in, "seed": seed,
        "batch_size": batch_size, "params": params, "common_batches": common_batches,
        "stacked": stacked, "at_once": at_once, "stderr": stderr, "max_draws": max_draws,
        "relative_stderr": relative_stderr, "max_seconds": max_seconds, "progress": progress,
        "observe": observe, "keep_losses": keep_losses,
    }  # fmt: skip
    if draws is None:
        ladder = isinstance(lr, str) and localization is None
        asked = ladder or stderr is not None or relative_stderr is not None
        draws = own["draws"] = PILOT_DRAWS if asked else DRAWS
    check_whole(1, draws=draws, chains=chains)
    if burn_in is not None:
        check_whole(0, burn_in=burn_in)
    if isinstance(lr, str):
        from geomfast.estimators.sampling.automatic import automatic_llc  # made of this module

        return automatic_llc(model, loss_fn, data, lr, localization, momentum, curvature, own)
    assert localization is not None
    return run_llc(model, loss_fn, data, lr, localization, momentum, curvature, own)


def run_llc(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    lr: float,
    localization: float | Literal["norm"],
    momentum: float | None,
    curvature: float | None,
    own: Mapping[str, Any],
    pilot: Pilot | None = None,
) -> LLC:
    """With a step size and a localization.

    Args:
        own: the other arguments of `llc`, by name; draws is a number.
        pilot: see `sampling.run.Chains`; nothing is observed or kept with one.
    """
    nbeta, batch_size, at_once, params = (
        own[name] for name in ("nbeta", "batch_size", "at_once", "params")
    )
    draws, seed, keep_losses = own["draws"], own["seed"], own["keep_losses"]
    _require_positive(lr=lr)
    burn_in = BURN_IN if own["burn_in"] is None else own["burn_in"]
    goal = goal_of(draws, *(own[name] for name in GOAL))
    check_whole(0, most=(1 << 64) - 1, seed=seed)
    if at_once is not None:
        check_whole(1, at_once=at_once)
    if nbeta is not None:
        _require_positive(nbeta=nbeta)
    elif isinstance(data, Iterator):
        raise ValueError("nbeta must be given: data is an iterator, whose n samples are not known")
    check_sample_independence(model)
    refuse_projected(model)
    with measurable(model, loss_fn, batches_of(data), widen=True) as (model, losses, batches):
        parameters = select_entries(model, params)
        samples = sum(count(batch, least=1) for batch in batches)
        if batch_size is not None:
            check_whole(1, batch_size=batch_size)
            if batch_size > samples:
                raise ValueError(
                    f"batch_size = {batch_size} is more than the {samples} samples of data"
                )
        if nbeta is None:
            if samples < 2:
                raise ValueError(
                    "nbeta must be given: n / log n of a single sample is not a number"
                )
            nbeta = usual_nbeta(samples)
        if localization == "norm":
            localization = norm_localization(*size_and_norm(parameters))
        _require_stable(lr, nbeta, localization, curvature)
        sampling = Sampling(
            model,
            losses,
            parameters,
            batches,
            initial_losses(model, losses, batches, at_once or batch_size),
            Dynamics(lr, nbeta, localization, momentum),
            batch_size,
            burn_in + draws,
            seed,
            own["common_batches"],
            at_once,
            curvature,
            keep=keep_losses is not False,
        )
        require_used(sampling)
        with torch.no_grad():
            _, _, first = next(all_parts(batches, at_once or batch_size))
            require_sound(losses, model, first, losses(model, first))
        run = Chains(sampling, own["chains"], burn_in, goal, own["progress"], pilot=pilot)
        with Keeping(own["observe"], keep_losses, losses, run) as keeping:
            traces, group = run_chains(run, own["stacked"])
            return keeping.added(estimate_of(run, traces, group))


def _require_stable(lr: float, nbeta: float, localization: float, curvature: float | None) -> None:
    """A chain on a quadratic of curvature h is stable where lr (nbeta h + localization) < 4."""
    if curvature is not None and not math.isfinite(curvature):
        raise ValueError(f"curvature must be finite, not {curvature}")
    most = max_energy_curvature(localization, nbeta, curvature)
    if lr * most >= STABLE:
        of = f"nbeta * curvature + localization = {most:.4g}"
        raise ValueError(
            f"lr = {lr:g} is too large: chains are stable only below 4 / ({of}) = "
            f"{STABLE / most:.3g}"
        )


def _require_positive(**values: float) -> None:
    check_number(**values)
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive, not {value}")
