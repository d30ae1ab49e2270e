"""Backend "torch": ghost products and materialised chunks, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.gradient_gram.factors import Factors, block


def ghost(uses: list[Factors], max_bytes: int) -> Tensor:
    """K_ij = sum_ts (left_it . left_js) (right_it . right_js), never forming a gradient.

    Args:
        uses: all uses of one parameter; N samples each.
        max_bytes: for temporaries, as far as a tile of one sample by one allows.

    Returns:
        (N, N) float64, symmetric.
    """
    samples = uses[0].right.shape[0]
    gram = uses[0].right.new_zeros((samples, samples), dtype=torch.float64)
    longest = max(use.length for use in uses)
    # Two products of a tile by a tile, and their product.
    per_pair = 3 * uses[0].right.element_size() * longest * longest
    tile = max(1, min(64, samples, int((max_bytes / per_pair) ** 0.5)))
    for i in range(0, samples, tile):
        for j in range(0, i + 1, tile):
            corner = gram[i : i + tile, j : j + tile]
            for p in uses:
                for q in uses:
                    corner += _ghost_tile(p.samples(i, i + tile), q.samples(j, j + tile))
    return gram.tril() + gram.tril(-1).mT


def _ghost_tile(p: Factors, q: Factors) -> Tensor:
    """(I, J) float64: one use of I samples against one use of J samples."""
    rights = _flat(p.right) @ _flat(q.right).mT
    if p.one_hot and q.one_hot:
        lefts = p.left.reshape(-1, 1) == q.left.reshape(1, -1)
    elif p.one_hot:
        lefts = _flat(q.left)[:, p.left.reshape(-1)].mT
    elif q.one_hot:
        lefts = _flat(p.left)[:, q.left.reshape(-1)]
    else:
        lefts = _flat(p.left) @ _flat(q.left).mT
    tiles = (rights * lefts).view(p.right.shape[0], p.length, q.right.shape[0], q.length)
    return tiles.sum((1, 3), dtype=torch.float64)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def materialised(uses: list[Factors], max_bytes: int, centered: bool) -> Tensor:
    """Gram matrix of the gradients themselves, made some rows of the parameter at a time.

    Args:
        uses: all uses of one parameter.
        max_bytes: for the gradients of a chunk, as far as one row allows.
        centered: subtract the mean gradient over the samples from each chunk first.

    Returns:
        (N, N) float64, symmetric.
    """
    right = uses[0].right
    samples, rows = right.shape[0], uses[0].rows
    gram = right.new_zeros((samples, samples), dtype=torch.float64)
    per_row = (3 if centered else 2) * right.element_size() * samples * right.shape[-1]
    step = max(1, min(rows, max_bytes // per_row))
    for first in range(0, rows, step):
        gradients = block(uses, first, min(first + step, rows))
        if centered:
            gradients = less_mean(gradients)
        gram += gram_of_rows(gradients)
    return gram


def less_mean(gradients: Tensor) -> Tensor:
    """(N, P) less its mean over the samples.

    In float64: a mean rounded to float32 is off by more than small deviations from it.
    """
    mean = gradients.mean(0, dtype=torch.float64)
    return (gradients.double() - mean).to(gradients.dtype)


def gram_of_rows(gradients: Tensor) -> Tensor:
    """(N, P) -> (N, N) float64; products in the input's own type, 16-bit ones in float32.

    Only tiles on and below the diagonal are computed.
    """
    if gradients.dtype in (torch.bfloat16, torch.float16):
        gradients = gradients.float()
    samples = gradients.shape[0]
    gram = gradients.new_zeros((samples, samples), dtype=torch.float64)
    tile = max(1, -(-samples // 4))
    for i in range(0, samples, tile):
        end = min(i + tile, samples)
        gram[i:end, :end] = (gradients[i:end] @ gradients[:end].mT).double()
    return gram.tril() + gram.tril(-1).mT
