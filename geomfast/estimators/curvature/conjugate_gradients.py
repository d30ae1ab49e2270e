"""Solutions of systems with a symmetric matrix, from its products with vectors.

Conjugate gradients (Hestenes and Stiefel 1952). The residual of its recurrence drifts from the true
one by rounding: what is returned is measured by a product, and the search goes on from there where
that is too large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geomfast.estimators.curvature.basis import Product, require_symmetric
from geomfast.estimators.stopping import check_stop

#: True residuals that are taken again, at most, when one was not as small as the recurrence said.
_RESTARTS = 5
#: A restart has to make the residual smaller by this much to be worth another.
_WORTH = 0.5


@dataclass(frozen=True)
class Solution:
    """An x with (A + damping I) x = v, nearly.

    Attributes:
        x: (P,), of the parameters' type.
        residual: |v - (A + damping I) x| / |v|, measured by a product at the end; 0 for v = 0.
        iterations: products computed, those that measure residuals included.
        converged: whether the residual is at most what was asked for.
        negative_curvature: the least p.(A + damping I)p / p.p of a direction p that was met, where
            that was not positive, and the search ended there; None where all were. The matrix has
            an eigenvalue that is at most this.
    """

    x: Tensor
    residual: float
    iterations: int
    converged: bool
    negative_curvature: float | None


def solve(
    product: Product, v: Tensor, *, damping: float, tol: float, max_iterations: int
) -> Solution:
    """Conjugate gradients from zero.

    Args:
        product: (P,) -> (P,), symmetric, without the damping.
        v: (P,) float32 or float64, finite.
        damping: added to the matrix's diagonal.
        tol: residual relative to |v| that is small enough.
        max_iterations: products at most, 2 or more.

    Raises:
        FloatingPointError: a product was not finite.
        Asymmetric: products are not those of a symmetric matrix.
    """
    size = torch.linalg.vector_norm(v).item()
    if size == 0.0:
        return Solution(torch.zeros_like(v), 0.0, 0, True, None)
    search = _Search(product, damping)
    unit = v / size  # of any scale: squares of small numbers are 0
    x, residual, before = torch.zeros_like(v), unit, math.inf
    true, negative = 1.0, None
    for _ in range(_RESTARTS):
        # One product is left to measure what was found.
        step, negative = search.run(residual, tol, max_iterations - 1)
        if not step.any():
            break
        moved = x + step
        residual = unit - search.times(moved)
        true = torch.linalg.vector_norm(residual).item()
        if not math.isfinite(true):
            raise FloatingPointError("a product is not finite")
        x = moved
        done = true <= tol or negative is not None or true > _WORTH * before
        if done or search.iterations >= max_iterations - 1:
            break
        before = true
    return Solution(x * size, true, search.iterations, true <= tol, negative)


class _Search:
    """Products so far, and the steps of one matrix.

    Attributes:
        iterations: products computed.
    """

    def __init__(self, product: Product, damping: float):
        self.product, self.damping, self.iterations = product, damping, 0
        self._checked = False

    def times(self, v: Tensor) -> Tensor:
        """(A + damping I) v."""
        check_stop()
        self.iterations += 1
        return torch.add(self.product(v), v, alpha=self.damping)

    def run(self, residual: Tensor, tol: float, max_iterations: int) -> tuple[Tensor, float | None]:
        """What x has to move by, and the curvature that ended the search if none is positive."""
        x, r, p = torch.zeros_like(residual), residual.clone(), residual.clone()
        square = _dot(r, r)
        before: tuple[Tensor, Tensor, float] | None = None
        while self.iterations < max_iterations and math.sqrt(square) > tol:
            q = self.times(p)
            along = _dot(p, q)
            if not math.isfinite(along):
                raise FloatingPointError("a product is not finite")
            if before is not None and not self._checked and along > 0.0:
                self._check(before, p, q, along)
            if along <= 0.0:
                return x, along / _dot(p, p)
            step = square / along
            x, r = torch.add(x, p, alpha=step), torch.add(r, q, alpha=-step)
            before = p, q, along
            previous, square = square, _dot(r, r)
            p = torch.add(r, p, alpha=square / previous)
        return x, None

    def _check(self, before: tuple[Tensor, Tensor, float], p: Tensor, q: Tensor, along: float):
        """Two directions in turn are conjugate either way round, of a symmetric matrix."""
        self._checked = True
        other, of_other, along_other = before
        difference = torch.tensor(_dot(p, of_other) - _dot(other, q), device="cpu")
        require_symmetric(difference, math.sqrt(along * along_other))


def _dot(a: Tensor, b: Tensor) -> float:
    """In float64."""
    return (a * b).sum(dtype=torch.float64).item()
