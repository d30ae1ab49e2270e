"""Backend "torch": its own attention of all neighbouring rows of one length, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def run(
    qkv: Tensor,
    offsets: Tensor,
    heads: int,
    out: Tensor,
    grad_output: Tensor | None = None,
    slopes: Tensor | None = None,
) -> None:
    """As `geomfast.kernels.row_attention.op` says."""
    for tokens, length in _runs(offsets):
        if grad_output is None:
            out[:, tokens] = _mixed(qkv[:, tokens], length, heads, slopes)
            continue
        with torch.enable_grad():
            leaf = qkv[:, tokens].detach().requires_grad_()
            mixed = _mixed(leaf, length, heads, slopes)
            out[:, tokens] = torch.autograd.grad(mixed, leaf, grad_output[:, tokens])[0]


def _runs(offsets: Tensor) -> Iterator[tuple[slice, int]]:
    """Tokens of neighbouring rows of one length, and that length."""
    lengths = [b - a for a, b in pairwise(offsets.tolist())]
    first = 0
    for length, rows in groupby(lengths):
        last = first + length * len(list(rows))
        if length:
            yield slice(first, last), length
        first = last


def _biases(slopes: Tensor, length: int) -> Tensor:
    """What is added to the scores: minus a head's slope for every token from a key to its query.

    Args:
        slopes: (heads,).
        length: T.

    Returns:
        (heads, T, T), -infinity where a key comes after its query.
    """
    at = torch.arange(length, device=slopes.device)
    distance = at[:, None] - at
    return (-slopes[:, None, None] * distance).masked_fill(distance < 0, -torch.inf)


def _mixed(qkv: Tensor, length: int, heads: int, slopes: Tensor | None) -> Tensor:
    """(C, n length, 3 d) -> (C, n length, d): rows of members are rows of one batch."""
    c, tokens, size = qkv.shape
    q, k, v = qkv.reshape(-1, length, 3, heads, size // (3 * heads)).permute(2, 0, 3, 1, 4)
    if slopes is None:
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        biases = _biases(slopes, length)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=biases)
    return mixed.transpose(1, 2).reshape(c, tokens, size // 3)
