"""The span of a Hessian's top eigenvectors: what of the gradient lies in it, and how it turns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.checks import LossFunction
from geomfast.estimators.curvature.lanczos import Eigenpairs
from geomfast.estimators.curvature.prepared import checked_products
from geomfast.estimators.hessian import hessian_top_eigenvalues


@dataclass(frozen=True)
class TopSubspace:
    """Top eigenpairs, and what of the mean loss's gradient lies in their span.

    Attributes:
        pairs: see :func:`geomfast.hessian_top_eigenvalues`.
        gradient_share: sum of the squared parts of the gradient along the eigenvectors, over its
            squared norm, between 0 and 1; NaN for a gradient of zero.
    """

    pairs: Eigenpairs
    gradient_share: float


def top_subspace(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    k: int,
    tol: float,
    max_iterations: int,
    seed: int,
    start: Tensor | None = None,
) -> TopSubspace:
    """Top eigenpairs and the gradient's share in their span.

    Gur-Ari, Roberts and Dyer (2018, arXiv:1812.04754), section 2. Inside of `one_preparation`,
    where the same search has been made of the same model, loss and data, that is taken.

    Args, raises:
        as :func:`geomfast.hessian_top_eigenvalues`.
    """
    with checked_products(model, loss_fn, data, None, "hessian") as products:
        search = {"k": k, "tol": tol, "max_iterations": max_iterations, "seed": seed}
        pairs = products.found.get(("top", *search.values()))
        if pairs is None:
            pairs = hessian_top_eigenvalues(model, loss_fn, data, start=start, **search)
        share = math.nan
        gradient = products.gradient()
        length = torch.linalg.vector_norm(gradient)
        if length > 0:
            unit = gradient / length
            parts = torch.stack([(row * unit).sum(dtype=torch.float64) for row in pairs.vectors])
            share = min(1.0, parts.square().sum().item())
    return TopSubspace(pairs, share)


def subspace_overlap(one: Tensor, other: Tensor) -> float:
    """Mean squared cosine of the principal angles between two spans; 1 for the same span.

    Two random spans of k in P dimensions have k / P.

    Args:
        one: (k, P) orthonormal rows.
        other: (m, P) orthonormal rows; of k and m the smaller number of angles counts.

    Raises:
        ValueError: the rows have other lengths.
    """
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"rows of {one.shape[1]} and {other.shape[1]} entries have no angles")
    other = other.to(one)
    cosines = torch.stack(
        [torch.stack([(a * b).sum(dtype=torch.float64) for b in other]) for a in one]
    )
    return min(1.0, cosines.square().sum().item() / min(len(one), len(other)))
