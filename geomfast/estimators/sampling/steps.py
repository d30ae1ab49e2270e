"""A step size for a given localization, from the curvature of a few samples."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from geomfast.estimators.batches import Batches, count, parts
from geomfast.estimators.checks import LossFunction, select_parameters
from geomfast.estimators.hessian import NotConverged, hessian_top_eigenvalues
from geomfast.estimators.llc import LLC, AllChainsDiverged, llc
from geomfast.estimators.sampling.chains import size_and_norm
from geomfast.estimators.sampling.rules import (
    MOMENTUM,
    max_energy_curvature,
    norm_localization,
    usual_nbeta,
)

#: Samples of which the curvature at the weights is taken.
CURVATURE_SAMPLES = 256
#: Samples of which it is taken for a step at a given localization, and tries of a step.
STEP_SAMPLES, STEP_TRIES = 64, 4


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
    parameters, _ = select_parameters(model, own["params"])
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
    """The coefficient, with a smaller step where chains diverge or finite steps add too much."""
    arguments = {
        **own,
        "nbeta": steps.nbeta,
        "localization": steps.localization,
        "momentum": MOMENTUM if momentum is None else momentum,
        "curvature": steps.curvature,
    }
    lr = steps.lr
    for left in reversed(range(STEP_TRIES)):
        try:
            found = llc(model, loss_fn, batches, lr=lr, **arguments)
            if not left or not (found.diverged.any() or "step too large" in found.verdict):
                return found
        except AllChainsDiverged:
            if not left:
                raise
        lr /= 2.0
    raise AssertionError("the last try returns or raises")


def listed(params: Iterable[str] | None) -> Iterable[str] | None:
    """To be gone through more than once."""
    return params if params is None or isinstance(params, str) else list(params)


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
    """The largest eigenvalue of the Hessian of the first samples, to about `tol`.

    Args:
        model, loss_fn, batches, params: as in :func:`geomfast.llc`.
        samples: how many.
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


def _few(batches: Batches, left: int, at_once: int | None) -> Iterator[Any]:
    for batch in batches:
        if left > 0:
            _, first = next(parts(batch, left))
            left -= count(first, least=1)
            yield from (part for _, part in parts(first, at_once))
