"""Products with the inverse of the damped Hessian of the mean loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.arguments import check_number, check_whole
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.curvature.conjugate_gradients import Solution, solve
from geomfast.estimators.curvature.prepared import checked_products
from geomfast.estimators.curvature.rescaled import exponent_of, times_two_to
from geomfast.estimators.curvature.sound import NotConverged, finite
from geomfast.estimators.curvature.vectors import checked_vector
from geomfast.estimators.hessian import Matrix


def inverse_hessian_product(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    v: Tensor,
    *,
    damping: float,
    tol: float = 1e-3,
    max_iterations: int = 100,
    matrix: Matrix = "hessian",
    params: Iterable[str] | None = None,
) -> Solution:
    r"""$(H + \lambda I)^{-1} v$, H the Hessian of the mean loss, by conjugate gradients.

    Hestenes and Stiefel (1952); for Newton steps Martens (2010, "Deep learning via Hessian-free
    optimization"), for influence functions Koh and Liang (2017, arXiv:1703.04730). The matrix has
    to be positive definite: the Hessian of a network in training seldom is, without a damping
    larger than its most negative eigenvalue (`hessian_top_eigenvalues` with ends="smallest" finds
    that), and "gauss-newton" is with any damping, for losses convex in the model's output.

    Args:
        model, loss_fn, data, matrix, params: as in `hessian_top_eigenvalues`.
        v: (P,), in the order of `model.named_parameters()`; `HessianOperator.flatten` makes one of
            tensors by name.
        damping: $\lambda \geq 0$, in units of eigenvalues. There is no default: it decides what the
            result means.
        tol: the residual that is small enough, relative to |v|. Below 1e-6 it needs a float64
            model.
        max_iterations: largest number of products, 2 or more.

    Returns:
        `x` (P,), of the wider of v's type and the parameters'; `residual`, measured by a product at
        the end; `iterations`, products computed; `converged`; `negative_curvature`, of a direction
        in which the damped matrix is not positive, where the search met one and ended. x then is
        what was found before, and solves nothing.

    Warns:
        NotConverged: the residual is too large after `max_iterations`, or negative curvature was
            met.

    Raises:
        TypeError: v is no real floating-point tensor; others as `hessian_top_eigenvalues`.
        ValueError: v has another shape or is not finite; damping is negative or not finite; tol is
            not positive; others as `hessian_top_eigenvalues`.

    Examples:
        >>> import geomfast as gf
        >>> net, x = torch.nn.Linear(3, 1, bias=False), torch.diag(torch.tensor([1.0, 2.0, 3.0]))
        >>> def loss(model, batch):
        ...     return 1.5 * model(batch)[:, 0] ** 2  # Hessian x^T x
        >>> found = gf.inverse_hessian_product(net, loss, x, torch.ones(3), damping=1.0)
        >>> found.converged, [round(value, 3) for value in found.x.tolist()]
        (True, [0.5, 0.2, 0.1])
    """
    check_number(damping=damping, tol=tol)
    if not 0.0 <= damping < math.inf:
        raise ValueError(f"damping must be 0 or more and finite, not {damping}")
    if not tol > 0:
        raise ValueError(f"tol must be positive, not {tol}")
    check_whole(2, max_iterations=max_iterations)
    with checked_products(model, loss_fn, data, params, matrix) as products:
        v = checked_vector("v", v, products.dimension).to(products.like.device)
        if not torch.isfinite(v).all():
            raise ValueError("v is not finite")
        exponent = exponent_of(v) or 0
        narrow = times_two_to(v, -exponent).to(products.like)
        found = finite(
            products,
            lambda: solve(
                products,
                narrow,
                damping=float(damping),
                tol=tol,
                max_iterations=max_iterations,
            ),
        )
    wide = torch.promote_types(v.dtype, narrow.dtype)
    x = times_two_to(found.x.to(wide), exponent)
    if found.negative_curvature is not None:
        warnings.warn(
            f"the {matrix} with damping {damping:g} is not positive definite: a direction of "
            f"curvature {found.negative_curvature:.3g} was met after {found.iterations} products, "
            f"with a residual of {found.residual:.2g}; x is no solution: raise damping, or take "
            'matrix="gauss-newton"',
            NotConverged,
            stacklevel=2,
        )
    elif not found.converged:
        warnings.warn(
            f"conjugate gradients have not converged after {found.iterations} products: the "
            f"residual is {found.residual:.2g}, tol is {tol:.2g}; raise max_iterations or damping"
            + (", or take model.double()" if narrow.dtype == torch.float32 else ""),
            NotConverged,
            stacklevel=2,
        )
    return Solution(x, found.residual, found.iterations, found.converged, found.negative_curvature)
