"""What the search for top eigenvectors shows beside their eigenvalues."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geomfast.measures.checks import at_least, check, or_none, positive
from geomfast.measures.kinds.hessian import Found, HessianTop, reliability
from geomfast.measures.spec import GREEN, Column, MeasureSpec, Need

if TYPE_CHECKING:
    from torch import Tensor, nn

    from geomfast.estimators.subspace import TopSubspace

_NO_RATE = 'the learning rate is not known: hessian_edge={"lr": ...}, or a tracker\'s optimizer'


@dataclass(frozen=True)
class HessianSubspace(HessianTop):
    """Settings of the search, as of :func:`geomfast.hessian_top_eigenvalues`.

    Attributes:
        k: number of top eigenvectors that span the subspace.
    """


@dataclass(frozen=True)
class HessianEdge(HessianTop):
    """Settings of the search, as of :func:`geomfast.hessian_top_eigenvalues`.

    Attributes:
        k: number of eigenvalues that are looked for, as hessian_top does, for one search of both.
        lr: learning rate; None for that of the training, where it is known.
    """

    lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, lr=or_none(positive), k=at_least(1))


def _searched(
    model: nn.Module, loss_fn: Any, data: Any, settings: HessianTop, start: Tensor | None
) -> TopSubspace:
    from geomfast.estimators.hessian import NotConverged
    from geomfast.estimators.subspace import top_subspace

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)  # the verdict says so
        return top_subspace(
            model,
            loss_fn,
            data,
            k=settings.k,
            tol=settings.tol,
            max_iterations=settings.max_iterations,
            seed=settings.seed,
            start=start,
        )


def subspace(
    model: nn.Module,
    loss_fn: Any,
    data: Any,
    settings: HessianSubspace,
    start: Tensor | None = None,
) -> Found:
    """The gradient's share in the top subspace, and its overlap with the last checkpoint's."""
    from geomfast.estimators.subspace import subspace_overlap

    found = _searched(model, loss_fn, data, settings, start)
    said = reliability(found.pairs)
    share = found.gradient_share
    vectors = found.pairs.vectors
    overlap, why = math.nan, "no earlier checkpoint of this run has its eigenvectors"
    if start is not None and start.shape[-1] == vectors.shape[1]:
        overlap, why = subspace_overlap(vectors, start.reshape(-1, start.shape[-1])), said
    rows = [
        (
            "hessian_subspace_gradient",
            share,
            math.nan,
            "the gradient is zero" if math.isnan(share) else said,
        ),
        ("hessian_subspace_overlap", overlap, math.nan, why),
    ]
    return rows, vectors


def edge(
    model: nn.Module, loss_fn: Any, data: Any, settings: HessianEdge, start: Tensor | None = None
) -> Found:
    """The largest eigenvalue times the learning rate; its residual times that for its error."""
    if settings.lr is None:
        return [("hessian_edge", math.nan, math.nan, _NO_RATE)], None
    found = _searched(model, loss_fn, data, settings, start).pairs
    value, residual = found.values[0].item(), found.residuals[0].item()
    row = ("hessian_edge", value * settings.lr, residual * settings.lr, reliability(found))
    return [row], None


_SHARED: dict[str, Any] = {
    "need": Need.CURVATURE,
    "expensive": True,
    "shares": "hessian_top",
    "colour": GREEN,
}
MEASURES = (
    MeasureSpec(
        name="hessian_subspace",
        core=False,
        summary="gradient's share in the Hessian's top eigenvectors, and how these turn",
        unit="share",
        settings=HessianSubspace,
        columns=(
            Column("hessian_subspace_gradient", 0.0, 1.0),
            Column("hessian_subspace_overlap", 0.0, 1.0),
        ),
        compute=subspace,
        meaning="the span of the top eigenvectors holds a share of {value:.3g}",
        label="Hessian, top subspace",
        vectors="hessian_subspace",
        order=52,
        **_SHARED,
    ),
    MeasureSpec(
        name="hessian_edge",
        core=False,
        summary="top eigenvalue times the learning rate; 2 at the edge of stability",
        unit="1",
        settings=HessianEdge,
        columns=(Column("hessian_edge"),),
        compute=edge,
        meaning="curvature times learning rate is {value:.3g}; plain gradient descent is stable "
        "below 2",
        label="Hessian, top eigenvalue x learning rate",
        logarithmic=True,
        order=54,
        **_SHARED,
    ),
)
