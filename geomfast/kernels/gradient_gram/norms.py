"""Squared norms of the per-sample gradients of one parameter: the diagonal of their Gram matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.gradient_gram.factors import Factors, block, stored

#: Ghost products whose sum is less than this share of their absolute values have lost digits.
_CANCELLED = 1e-4


def squared_norms(uses: list[Factors], max_bytes: int) -> Tensor:
    """Squared norm of every sample's gradient, by whichever way takes fewer operations.

    Ghost products (Goodfellow 2015, arXiv:1510.01799; over positions Li et al. 2022,
    arXiv:2110.05679, section 4) take T^2 (in + out) multiply-adds a sample, the gradient itself
    T in out. It is also made where ghost products cancel each other, which loses their digits.

    Args:
        uses: every use of the parameter, N samples each; their gradients add.
        max_bytes: for temporaries, as far as one sample or one row of the parameter allows.

    Returns:
        (N,) float64.
    """
    gradients = stored(uses)
    if gradients is not None:
        return gradients.double().square().sum(1)
    length = sum(use.length for use in uses)
    rows, columns = uses[0].rows, uses[0].right.shape[-1]
    dense_rows = 0 if all(use.one_hot for use in uses) else rows
    if length * (columns + dense_rows) < rows * columns:
        found, size = _ghost(uses, max_bytes)
        if bool((found >= _CANCELLED * size).all()):
            return found
    return _materialised(uses, max_bytes)


def _ghost(uses: list[Factors], max_bytes: int) -> tuple[Tensor, Tensor]:
    """(N,) sums over pairs of positions, and (N,) those of their absolute values."""
    samples, longest = uses[0].right.shape[0], max(use.length for use in uses)
    # Two products of a sample by itself, and their product.
    per_sample = 3 * uses[0].right.element_size() * longest * longest
    step = max(1, min(samples, max_bytes // per_sample))
    found = uses[0].right.new_zeros(samples, dtype=torch.float64)
    size = torch.zeros_like(found)
    for first in range(0, samples, step):
        part = slice(first, min(first + step, samples))
        few = [use.samples(part.start, part.stop) for use in uses]
        for i, p in enumerate(few):
            for q in few[: i + 1]:
                times = 1 if p is q else 2
                terms = _lefts(p, q) * (p.right @ q.right.mT)
                found[part] += times * terms.sum((1, 2), dtype=torch.float64)
                size[part] += times * terms.abs().sum((1, 2), dtype=torch.float64)
    return found, size


def _lefts(p: Factors, q: Factors) -> Tensor:
    """(N, T_p, T_q) products of the left factors' rows."""
    if p.one_hot and q.one_hot:
        return p.left[:, :, None] == q.left[:, None, :]
    if p.one_hot:
        return _lefts(q, p).mT
    if q.one_hot:
        columns = q.left[:, None, :].expand(-1, p.length, -1)
        return p.left.gather(2, columns)
    return p.left @ q.left.mT


def _materialised(uses: list[Factors], max_bytes: int) -> Tensor:
    """(N,) of the gradients themselves, some rows of the parameter at a time."""
    right, rows = uses[0].right, uses[0].rows
    per_row = 4 * right.element_size() * right.shape[0] * right.shape[-1]
    step = max(1, min(rows, max_bytes // max(1, per_row)))
    found = right.new_zeros(right.shape[0], dtype=torch.float64)
    for first in range(0, rows, step):
        gradients = block(uses, first, min(first + step, rows))
        found += gradients.double().square().sum(1)
    return found
