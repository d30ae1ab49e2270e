"""Backend "reference": float64, the formulas as written, a row at a time."""

from __future__ import annotations

from itertools import pairwise

import torch
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
    for first, last in pairwise(offsets.tolist()):
        c, t, size = qkv[:, first:last].shape
        width = size // (3 * heads)
        # (3, C, heads, T, width)
        parts = qkv[:, first:last].double().view(c, t, 3, heads, width).permute(2, 0, 3, 1, 4)
        q, k, v = parts
        scale = width**-0.5
        later = torch.ones(t, t, dtype=torch.bool, device=qkv.device).triu(1)
        s = scale * q @ k.mT
        if slopes is not None:
            at = torch.arange(t, dtype=torch.float64, device=qkv.device)
            s = s - slopes.double()[:, None, None] * (at[:, None] - at)
        p = s.masked_fill(later, -torch.inf).softmax(-1)
        if grad_output is None:
            out[:, first:last] = (p @ v).transpose(1, 2).reshape(c, t, heads * width)
            continue
        o = grad_output[:, first:last].double().view(c, t, heads, width).transpose(1, 2)
        p_bar = o @ v.mT
        s_bar = scale * p * (p_bar - (p * p_bar).sum(-1, keepdim=True))
        found = torch.stack([s_bar @ k, s_bar.mT @ q, p.mT @ o])
        out[:, first:last] = found.permute(1, 3, 0, 2, 4).reshape(c, t, size)
