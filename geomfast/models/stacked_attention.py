"""Causal attention of many members over short rows, forward and backward, without autograd.

Short rows need no tiling: products of batches do, of rows padded to the longest of their bucket.
Everything else is spared the padding.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from geomfast.models.gpt import Shapes

_softmax_backward = torch.ops.aten._softmax_backward_data.out
# torch's softmax goes over rows shorter than a vector number by number, and its exponential is slow
# where the result is zero or denormal: such rows are done here, and masked scores clamped.
_LANES = {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 1)
_LEAST = -80.0  # its exponential is no denormal number, and nothing beside that of a row's largest


class Buffers:
    """Memory by name, allocated once and written anew by every step; contents do not last."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A contiguous float32 tensor of that shape with anything in it."""
        size = prod(shape)
        held = self._held.get(name)
        if held is None or held.numel() < size:
            held = self._held[name] = torch.empty(size)
        return held[:size].view(shape)


class Run(NamedTuple):
    """Neighbouring rows of one length: which of their bucket's, and which of the R tokens."""

    rows: slice
    tokens: slice
    length: int


class Bucket(NamedTuple):
    """Rows that attention pads to the longest of them."""

    rows: int
    longest: int
    runs: list[Run]


class Layout:
    """Where the R tokens that are no padding lie among the M tokens of all buckets.

    Attributes:
        real: (R,) indices into M.
        place: (M,) indices into R of those; padding has none of its own.
        buckets: of the R tokens.
    """

    def __init__(self, shapes: Shapes, lengths: list[tuple[int, ...]]) -> None:
        real = [
            (torch.arange(t) < torch.tensor(of)[:, None]).flatten()
            for (_, t), of in zip(shapes, lengths, strict=True)
        ]
        kept = torch.cat(real)
        self.real, self.place = kept.nonzero().flatten(), kept.cumsum(0) - 1
        self.buckets: list[Bucket] = []
        first = 0
        for of in lengths:
            runs = []
            changes = [i for i in range(1, len(of)) if of[i] != of[i - 1]]
            for a, b in pairwise([0, *changes, len(of)]):
                tokens = slice(first, first := first + (b - a) * of[a])
                runs.append(Run(slice(a, b), tokens, of[a]))
            self.buckets.append(Bucket(len(of), max(of), runs))


class Heads(NamedTuple):
    """A bucket's queries, keys and values, (3, C N heads, T, d / heads), and its attention."""

    qkv: Tensor
    weights: Tensor


class RowAttention:
    """Attention of C members with so many heads, each row by itself.

    Args:
        heads: of each member.
        buffers: memory to work in.
    """

    def __init__(self, heads: int, buffers: Buffers) -> None:
        self.heads, self._buffer = heads, buffers
        self._masks: dict[int, Tensor] = {}

    def forward(self, i: int, qkv: Tensor, out: Tensor, buckets: list[Bucket]) -> list[Heads]:
        """Mix the values of earlier tokens.

        Args:
            i: number of the block.
            qkv: (C, R, 3 d) queries, keys and values of every token.
            out: (C, R, d), written.
            buckets: of the R tokens.

        Returns:
            What the backward pass needs.
        """
        c, _, d = out.shape
        heads, kept = self.heads, []
        for j, (n, t, runs) in enumerate(buckets):
            parts = self._buffer(f"blocks.{i}.qkv.{j}", 3, c, n, heads, t, d // heads)
            for rows, tokens, length in runs:
                found = qkv[:, tokens].view(c, -1, length, 3, heads, d // heads)
                parts[:, :, rows, :, :length] = found.permute(3, 0, 1, 4, 2, 5)
                parts[:, :, rows, :, length:] = 0
            q, k, v = (flat := parts.view(3, -1, t, d // heads))
            scores = self._buffer("scores", len(q), t, t)
            mask = self._mask(t)
            torch.baddbmm(mask, q, k.mT, alpha=_scale(q), out=scores)
            weights = self._buffer(f"blocks.{i}.attention.{j}", len(q), t, t)
            _softmax(scores, mask, out=weights)
            mixed = torch.bmm(weights, v, out=self._buffer("mixed", *v.shape))
            by_row = mixed.view(c, n, heads, t, -1).transpose(2, 3)
            for rows, tokens, length in runs:
                target = out[:, tokens].view(c, -1, length, heads, d // heads)
                target.copy_(by_row[:, rows, :length])
            kept.append(Heads(flat, weights))
        return kept

    def backward(self, into: Tensor, kept: list[Heads], out: Tensor, buckets: list[Bucket]) -> None:
        """Writes the gradient of ``qkv``, (C, R, 3 d), from that of the output, (C, R, d)."""
        c, _, d = into.shape
        heads = self.heads
        for (n, t, runs), (qkv, weights) in zip(buckets, kept, strict=True):
            q, k, v = qkv
            mixed = self._buffer("mixed", *v.shape)
            by_row = mixed.view(c, n, heads, t, -1).transpose(2, 3)
            for rows, tokens, length in runs:
                by_row[:, rows, :length] = into[:, tokens].view(c, -1, length, heads, d // heads)
                by_row[:, rows, length:] = 0
            parts = self._buffer("parts", *qkv.shape)
            torch.bmm(weights.mT, mixed, out=parts[2])
            scores = torch.bmm(mixed, v.mT, out=self._buffer("scores", len(q), t, t))
            _backward(scores, weights)
            parts[0].baddbmm_(scores, k, beta=0, alpha=_scale(q))
            parts[1].baddbmm_(scores.mT, q, beta=0, alpha=_scale(q))
            by_token = parts.view(3, c, n, heads, t, -1).permute(1, 2, 4, 0, 3, 5)
            for rows, tokens, length in runs:
                target = out[:, tokens].view(c, -1, length, 3, heads, d // heads)
                target.copy_(by_token[:, rows, :length])

    def _mask(self, t: int) -> Tensor:
        """Added to scores: a query sees no later key."""
        if t not in self._masks:
            self._masks[t] = torch.full((t, t), -torch.inf).triu(1)
        return self._masks[t]


def _softmax(scores: Tensor, mask: Tensor, out: Tensor) -> None:
    """Of each row of masked scores."""
    if scores.shape[-1] >= _LANES:
        torch.softmax(scores, -1, out=out)
        return
    torch.sub(scores, scores.amax(-1, keepdim=True), out=out)
    out.clamp_(min=_LEAST).exp_().mul_(mask.exp())
    out /= out.sum(-1, keepdim=True)


def _backward(into: Tensor, weights: Tensor) -> None:
    """From the gradient of the weights, which it overwrites, to that of the scores."""
    if into.shape[-1] >= _LANES:
        _softmax_backward(into, weights, -1, torch.float32, grad_input=into)
        return
    into *= weights
    torch.addcmul(into, weights, into.sum(-1, keepdim=True), value=-1.0, out=into)


def _scale(q: Tensor) -> float:
    return 1.0 / sqrt(q.shape[-1])
