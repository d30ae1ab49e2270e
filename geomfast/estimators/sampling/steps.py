"""A step size for a given localization, from the curvature of a few samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from geomfast.estimators.batches import Batches, count, index_batch, parts, shuffled
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.entries import select_entries
from geomfast.estimators.hessian import NotConverged, hessian_top_eigenvalues
from geomfast.estimators.llc import LLC, AllChainsDiverged, run_llc
from geomfast.estimators.sampling.chains import size_and_norm
from geomfast.estimators.sampling.rules import (
    BURN_IN,
    LARGEST_STEP_BIAS,
    MOST_MOMENTUM,
    PILOT_DRAWS,
    burn_in_steps,
    critical_momentum,
    max_energy_curvature,
    norm_localization,
    usual_nbeta,
)
from geomfast.estimators.sampling.run import Pilot

#: Samples of which the curvature at the weights is taken.
CURVATURE_SAMPLES = 256
#: Samples of which it is taken for a step at a given localization, and tries of a step.
STEP_SAMPLES, STEP_TRIES = 64, 4
#: Of what finite steps may add, what a smaller step is chosen for; and how much less one adds.
_SAFE, _LEAST_SHARE, _MOST_SHARE = 0.6, 0.25, 0.7
#: Of a step with which a chain diverged, the next one.
_OF_DIVERGED = 0.25
# Short chains know it this well.
_KNOWN = 0.8


@dataclass(frozen=True)
class Steps:
    """A step size for one localization.

    Attributes:
        lr: one over the largest curvature of the chains' energy.
        localization, nbeta: of it.
        curvature: largest of the loss.
    """

    lr: float
    localization: float
    nbeta: float
    curvature: float


def steps_for(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    localization: float | Literal["norm"],
    curvature: float | None,
    own: Mapping[str, Any],
) -> Steps:
    """A step size from the curvature of a few samples.

    Args:
        model, loss_fn, batches, localization, curvature: as in :func:`geomfast.llc`.
        own: its other arguments.
    """
    parameters = select_entries(model, own["params"])
    if localization == "norm":
        localization = norm_localization(*size_and_norm(parameters))
    nbeta = own["nbeta"]
    if nbeta is None:
        nbeta = usual_nbeta(max(sum(count(batch, least=1) for batch in batches), 2))
    if curvature is None:
        few = {"samples": STEP_SAMPLES, "tol": 0.2, "most": 8}
        at_once = own["at_once"] or own["batch_size"]
        curvature = top_curvature(model, loss_fn, batches, own["params"], at_once=at_once, **few)
    most = max_energy_curvature(localization, nbeta, curvature)
    if not most > 0:
        raise ValueError(
            "lr = 'auto' finds no step: the loss has no curvature at the weights, and localization "
            "is 0; give lr, or leave localization out"
        )
    return Steps(1.0 / most, localization, nbeta, curvature)


def stepped(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    steps: Steps,
    momentum: float | None,
    own: Mapping[str, Any],
) -> LLC:
    """The coefficient, with a smaller step where chains diverge or finite steps add too much.

    A step is judged by the first draws of its chains, which run on where it is good.
    """
    draws, localization, curvature = own["draws"], steps.localization, steps.curvature
    given = {**own, "nbeta": steps.nbeta}
    goal = own["stderr"] is not None or own["relative_stderr"] is not None
    # Those that look for a step observe nothing, so that those that count are others.
    watched = own["observe"] is not None or own["keep_losses"] is not False
    pilots = goal or draws > 2 * PILOT_DRAWS or watched
    # Chains that have more draws than are asked for do not count.
    runs_on = draws >= PILOT_DRAWS and not watched

    def sampled(lr: float, accepts: Callable[[LLC], bool] | None, **more: Any) -> LLC:
        # An hundredth of what localization holds is forgotten in more steps than any chain has.
        slowest = burn_in_steps(max(lr * localization, 1e-6), 1.0, least=5)
        burn_in = max(own["burn_in"] or 0, min(slowest, max(draws, BURN_IN)))
        pilot = accepts and Pilot(min(burn_in, 2 * PILOT_DRAWS), PILOT_DRAWS, accepts, runs_on)
        c = _damping(lr, localization, momentum)
        options = given | {"burn_in": burn_in} | more
        return run_llc(model, loss_fn, batches, lr, localization, c, curvature, options, pilot)

    def allowed(found: LLC) -> float:
        """What finite steps may add."""
        if goal:  # an error that is asked for is that of the step as well
            asked = own["relative_stderr"] or 0.0
            return max(own["stderr"] or 0.0, asked * abs(found.mean))
        # As of all draws: few have a larger error, which would excuse more.
        error = found.stderr * math.sqrt(min(PILOT_DRAWS / draws, 1.0) if pilots else 1.0)
        return max(LARGEST_STEP_BIAS * abs(found.mean), error)

    def fits(found: LLC) -> bool:
        most = (_KNOWN if pilots else 1.0) * allowed(found)
        small = not found.step_bias > most or _still_training(found)
        return small and not bool(found.diverged.any())

    lr = steps.lr
    for _ in range(STEP_TRIES - 1):
        tried: list[LLC] = []

        def accepts(found: LLC, tried: list[LLC] = tried) -> bool:
            tried.append(found)
            return fits(found) and not watched

        try:
            if not pilots:
                found = sampled(lr, None)
            elif watched:
                found = sampled(lr, accepts, observe=None, keep_losses=False)
            else:
                found = sampled(lr, accepts)
        except AllChainsDiverged:
            if tried and fits(tried[-1]):
                raise
            lr *= _OF_DIVERGED
            continue
        first = tried[-1] if pilots else found
        if fits(first):
            return sampled(lr, None) if watched else found
        if first.diverged.any():
            lr *= _OF_DIVERGED
            continue
        share = min(max(_SAFE * allowed(first) / first.step_bias, _LEAST_SHARE), _MOST_SHARE)
        lr = _cooler(lr, localization, momentum, share)
    return sampled(lr, None)


def _still_training(found: LLC) -> bool:
    return found.mean < -2.0 * found.stderr


def _damping(lr: float, localization: float, momentum: float | None) -> float:
    """The momentum that was given, or that of critical damping."""
    if momentum is not None:
        return momentum
    return min(critical_momentum(lr, localization), MOST_MOMENTUM)


def _cooler(lr: float, localization: float, momentum: float | None, share: float) -> float:
    """The step to which minibatches add so much of what they add to another.

    That goes with lr (1 + c) / (1 - c), in which a momentum of critical damping grows as lr falls.
    """

    def heat(lr: float) -> float:
        c = _damping(lr, localization, momentum)
        return lr * (1.0 + c) / (1.0 - c)

    goal = share * heat(lr)
    while heat(lr) > goal:
        lr *= 0.9
    return lr


def listed(params: Iterable[str] | None) -> Iterable[str] | None:
    """To be gone through more than once; what cannot be gone through at all as it is."""
    if isinstance(params, (str, bytes, Mapping)) or not isinstance(params, Iterable):
        return params
    return list(params)


def top_curvature(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Batches,
    params: Iterable[str] | None,
    *,
    samples: int = CURVATURE_SAMPLES,
    tol: float = 0.05,
    most: int = 20,
    at_once: int | None = None,
) -> float:
    """The largest eigenvalue of the Hessian of a few samples, to about `tol`.

    Args:
        model, loss_fn, batches, params: as in :func:`geomfast.llc`.
        samples: how many, spread over the data.
        tol: relative.
        most: iterations.
        at_once: samples that go through the model together; None for a batch.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        found = hessian_top_eigenvalues(
            model,
            loss_fn,
            Batches(_few(batches, samples, at_once)),
            tol=tol,
            max_iterations=most,
            params=params,
        )
    return found.values[0].item()


def _few(batches: Batches, at_most: int, at_once: int | None) -> Iterator[Any]:
    """Samples spread over all batches by a fixed seed: data may come sorted, as by task."""
    samples = sum(count(batch, least=1) for batch in batches)
    which = shuffled(samples)[: min(at_most, samples)].sort().values
    first = 0
    for batch in batches:
        after = first + count(batch, least=1)
        own = which[(which >= first) & (which < after)] - first
        if len(own):
            some = batch if len(own) == after - first else index_batch(batch, own)
            yield from (part for _, part in parts(some, at_once))
        first = after
