"""Backend "torch": its own attention of all neighbouring rows of one length, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def run(
    qkv: Tensor, offsets: Tensor, heads: int, out: Tensor, grad_output: Tensor | None = None
) -> None:
    """As `geomfast.kernels.row_attention.op` says."""
    for tokens, length in _runs(offsets):
        if grad_output is None:
            out[:, tokens] = _mixed(qkv[:, tokens], length, heads)
            continue
        with torch.enable_grad():
            leaf = qkv[:, tokens].detach().requires_grad_()
            mixed = _mixed(leaf, length, heads)
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


def _mixed(qkv: Tensor, length: int, heads: int) -> Tensor:
    """(C, n length, 3 d) -> (C, n length, d): rows of members are rows of one batch."""
    c, tokens, size = qkv.shape
    q, k, v = qkv.reshape(-1, length, 3, heads, size // (3 * heads)).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return mixed.transpose(1, 2).reshape(c, tokens, size // 3)
