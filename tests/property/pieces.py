"""Parts of drawn models: what maps (N, T, d) to (N, T, d) without mixing samples.

Every part is made from a `random.Random`, a width and a length, and says in `what` which of its
variants it is. `mask` (N, T) marks the rows that exist, at least one a sample; `route` (N, T) are
numbers in 0..3 to choose experts and branches by.
"""

from __future__ import annotations

import random
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

ROUTES = 4


class Piece(nn.Module):
    """A part of a drawn model.

    Attributes:
        ways: its variants, which semicolons part.
        what: the variant, for a description.
        eval_only: whether the part means something else in training mode.
        smooth: whether finite differences tell its second derivative.
        trusted: whether torch's double backward does.
        curved: whether there is a second derivative: of a gradient that is not the loss's own
            (straight-through, detached parts) there is none to compare with.
    """

    ways = ""
    eval_only = False
    smooth = True
    trusted = True
    curved = True

    def __init__(self, pick: random.Random, d: int, length: int):
        super().__init__()
        self.what = pick.choice(re.split(r";\s+", self.ways.strip())) if self.ways else ""
        self.make(pick, d, length)

    def make(self, pick: random.Random, d: int, length: int) -> None:
        raise NotImplementedError

    def forward(self, h: Tensor, mask: Tensor, route: Tensor) -> Tensor:
        raise NotImplementedError


def matrix(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) / columns**0.5)


class Dense(Piece):
    """One matrix, used in the ways that people write it."""

    ways = """
        module; no bias; @ W; @ W.T; W.mT; einsum; addmm; bmm expand; repeat; einsum per sample;
        cat; stacked; transposed view; bilinear; tensordot; W @ h; row by row
    """

    def make(self, pick, d, length):
        if self.what in ("module", "no bias"):
            self.layer = nn.Linear(d, d, bias=self.what == "module")
        elif self.what == "bilinear":
            self.layer = nn.Bilinear(d, d, d)
        elif self.what in ("cat", "stacked"):
            self.parts = nn.ParameterList([nn.Parameter(torch.randn(d) * 0.5) for _ in range(d)])
        else:
            self.w = matrix(d, d)
        if self.what == "addmm":
            self.b = nn.Parameter(torch.randn(d))

    def forward(self, h, mask, route):
        n, length, d = h.shape
        match self.what:
            case "module" | "no bias":
                return self.layer(h)
            case "bilinear":
                return self.layer(h, h)
            case "@ W":
                return h @ self.w
            case "@ W.T":
                return h @ self.w.T
            case "W.mT":
                return torch.matmul(h, self.w.mT)
            case "einsum":
                return torch.einsum("ntd,ed->nte", h, self.w)
            case "einsum per sample":
                return torch.einsum("ntd,ned->nte", h, self.w.expand(n, d, d))
            case "addmm":
                return torch.addmm(self.b, h.reshape(-1, d), self.w.t()).view(n, length, d)
            case "bmm expand":
                return torch.bmm(h, self.w.expand(n, d, d))
            case "repeat":
                return torch.bmm(h, self.w.repeat(n, 1, 1).transpose(1, 2))
            case "cat":
                return h @ torch.cat(list(self.parts)).view(d, d)
            case "stacked":
                return F.linear(h, torch.stack(list(self.parts)))
            case "transposed view":
                return F.linear(h, self.w.transpose(0, 1).contiguous())
            case "tensordot":
                return torch.tensordot(h, self.w, dims=1)
            case "W @ h":
                return (self.w @ h.mT).mT
            case _:
                return torch.stack([torch.stack([self.w @ row for row in one]) for one in h])


class Rows(Piece):
    """A layer on rows that are samples and positions in one dimension, or in another order."""

    ways = """
        sample-major; time-major; time first; flip; roll; roll all; reversed; shuffled;
        row blocks; column; unfold
    """

    def make(self, pick, d, length):
        self.layer = nn.Linear(d, d, bias=pick.random() < 0.7)
        self.norm = nn.LayerNorm(d) if pick.random() < 0.3 else nn.Identity()

    def forward(self, h, mask, route):
        n, length, d = h.shape
        layer = lambda x: self.norm(self.layer(x))  # noqa: E731
        match self.what:
            case "sample-major":
                return layer(h.reshape(n * length, d)).view(n, length, d)
            case "time-major":
                rows = h.transpose(0, 1).reshape(length * n, d)
                return layer(rows).view(length, n, d).transpose(0, 1)
            case "time first":
                return layer(h.transpose(0, 1)).transpose(0, 1)
            case "flip":
                return layer(h.flip(1)).flip(1)
            case "roll":
                return layer(h.roll(1, 1))
            case "roll all":
                return layer(h.reshape(-1, d).roll(1, 0)).roll(-1, 0).view(n, length, d)
            case "reversed":
                return layer(h.flip(0)).flip(0)
            case "shuffled":
                order = torch.arange(n * length).mul(7).add(3) % 97
                order = order.argsort(stable=True)
                return layer(h.reshape(-1, d)[order])[order.argsort()].view(n, length, d)
            case "row blocks":
                return (
                    torch.cat([layer(h[:, t]) for t in range(length)])
                    .view(length, n, d)
                    .transpose(0, 1)
                )
            case "column":
                return torch.stack([layer(h[:, t]) for t in range(length)], 1)
            case _:
                padded = F.pad(h, (0, 0, 1, 0))
                return layer(padded.unfold(1, 2, 1).mean(-1))


class Ragged(Piece):
    """A layer on the rows that exist, put back where they were."""

    ways = """
        h[mask]; masked_scatter; index_select; index_add; scatter_add; index_copy;
        masked_select; split; cat of lists; gather; nonzero; padding to longest
    """

    def make(self, pick, d, length):
        self.layer = nn.Linear(d, d, bias=pick.random() < 0.7)
        self.scale = nn.Parameter(torch.rand(d) + 0.5) if pick.random() < 0.4 else None

    def rows(self, x):
        x = self.layer(x)
        return x if self.scale is None else x * self.scale

    def forward(self, h, mask, route):
        _, length, d = h.shape
        flat, at = h.reshape(-1, d), mask.reshape(-1).nonzero().squeeze(1)
        zeros, wide = torch.zeros_like(flat), at[:, None].expand(-1, d)
        match self.what:
            case "h[mask]":
                out = torch.zeros_like(h)
                out[mask] = self.rows(h[mask])
                return out
            case "masked_scatter":
                return torch.zeros_like(h).masked_scatter(mask[..., None], self.rows(h[mask]))
            case "index_select":
                return zeros.index_put((at,), self.rows(flat.index_select(0, at))).view_as(h)
            case "index_add":
                return zeros.index_add(0, at, self.rows(flat[at])).view_as(h)
            case "scatter_add":
                return zeros.scatter_add(0, wide, self.rows(flat[at])).view_as(h)
            case "index_copy":
                return zeros.index_copy(0, at, self.rows(flat[at])).view_as(h)
            case "masked_select":
                rows = torch.masked_select(h, mask[..., None]).view(-1, d)
                return zeros.index_add(0, at, self.rows(rows)).view_as(h)
            case "split":
                parts = self.rows(h[mask]).split(mask.sum(1).tolist())
                return nn.utils.rnn.pad_sequence(
                    [F.pad(p, (0, 0, 0, length - len(p))) for p in parts], batch_first=True
                )
            case "cat of lists":
                rows = self.rows(torch.cat([one[here] for one, here in zip(h, mask, strict=True)]))
                return zeros.index_copy(0, at, rows).view_as(h)
            case "gather":
                return zeros.scatter(0, wide, self.rows(flat.gather(0, wide))).view_as(h)
            case "nonzero":
                sample, place = mask.nonzero(as_tuple=True)
                out = torch.zeros_like(h)
                out[sample, place] = self.rows(h[sample, place])
                return out
            case _:
                longest = int(mask.sum(1).max())
                order = (~mask).long().argsort(stable=True)
                front = h.gather(1, order[..., None].expand_as(h))[:, :longest]
                # What is beyond a sample's own length must not show, for it hangs on the others'.
                here = mask.gather(1, order)[:, :longest, None]
                return F.pad(self.rows(front) * here, (0, 0, 0, length - longest))


def recurrent(pick: random.Random, d: int, batch_first: bool) -> tuple[nn.RNNBase, str]:
    kind = pick.choice([nn.LSTM, nn.GRU, nn.RNN])
    both = d % 2 == 0 and pick.random() < 0.3
    layers = pick.choice([1, 1, 2])
    bias = pick.random() < 0.8
    made = kind(
        d,
        d // 2 if both else d,
        layers,
        batch_first=batch_first,
        bidirectional=both,
        bias=bias,
    )
    return made, f"{kind.__name__}({layers=}, {both=}, {batch_first=}, {bias=})"


class Recurrent(Piece):
    def make(self, pick, d, length):
        self.inner, self.what = recurrent(pick, d, pick.random() < 0.5)

    def forward(self, h, mask, route):
        if self.inner.batch_first:
            return self.inner(h)[0]
        return self.inner(h.transpose(0, 1))[0].transpose(0, 1)


class Packed(Piece):
    """Packed sequences: rows by time, and of every time only the samples that still go on."""

    def make(self, pick, d, length):
        self.inner, self.what = recurrent(pick, d, True)
        self.how = pick.choice(["recurrent", "rows", "both"])
        self.layer = nn.Linear(d, d)
        self.what = f"{self.how} {self.what if self.how != 'rows' else ''}"
        if self.how == "rows":
            del self.inner

    def forward(self, h, mask, route):
        lengths = mask.sum(1)
        packed = pack_padded_sequence(h, lengths.cpu(), batch_first=True, enforce_sorted=False)
        if self.how != "rows":
            packed = self.inner(packed)[0]
        if self.how != "recurrent":
            packed = PackedSequence(
                self.layer(packed.data),
                packed.batch_sizes,
                packed.sorted_indices,
                packed.unsorted_indices,
            )
        else:
            packed = packed._replace(data=self.layer(packed.data))
        return pad_packed_sequence(packed, batch_first=True, total_length=h.shape[1])[0]
