"""Parts of drawn models: what maps (N, T, d) to (N, T, d) without mixing samples.

Every part is made from a `random.Random`, a width and a length, and says in `what` which of its
variants it is. `mask` (N, T) marks the rows that exist, at least one a sample; `route` (N, T) are
numbers in 0..3 to choose experts and branches by.
"""

from __future__ import annotations

import random
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

ROUTES = 4


class Piece(nn.Module):
    """A part of a drawn model.

    Attributes:
        what: the variant, for a description.
        eval_only: whether the part means something else in training mode.
        smooth: whether finite differences tell its second derivative.
        trusted: whether torch's double backward does.
        curved: whether there is a second derivative: of a gradient that is not the loss's own
            (straight-through, detached parts) there is none to compare with.
    """

    eval_only = False
    smooth = True
    trusted = True
    curved = True

    def __init__(self, pick: random.Random, d: int, length: int):
        super().__init__()
        self.what = ""
        self.make(pick, d, length)

    def make(self, pick: random.Random, d: int, length: int) -> None:
        raise NotImplementedError

    def forward(self, h: Tensor, mask: Tensor, route: Tensor) -> Tensor:
        raise NotImplementedError


def variant(pick: random.Random, names: str) -> str:
    """One of the names, which semicolons part."""
    return pick.choice(names.split("; "))


def matrix(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) / columns**0.5)


class Dense(Piece):
    """One matrix, used in the ways that people write it."""

    def make(self, pick, d, length):
        self.what = variant(
            pick,
            "module; no bias; @ W; @ W.T; W.mT; einsum; addmm; bmm expand; repeat; "
            "einsum per sample; cat; stacked; transposed view; bilinear; tensordot; W @ h; "
            "row by row",
        )
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

    def make(self, pick, d, length):
        self.what = variant(
            pick,
            "sample-major; time-major; time first; flip; roll; roll all; reversed; shuffled; "
            "row blocks; column; unfold",
        )
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

    def make(self, pick, d, length):
        self.what = variant(
            pick,
            "h[mask]; masked_scatter; index_select; index_add; scatter_add; index_copy; "
            "masked_select; split; cat of lists; gather; nonzero; padding to longest",
        )
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
                return F.pad(self.rows(front), (0, 0, 0, length - longest))


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


class Attention(Piece):
    def make(self, pick, d, length):
        self.first = pick.random() < 0.5
        self.padding = pick.random() < 0.6
        self.causal = pick.random() < 0.4
        self.weights = pick.random() < 0.3
        heads = pick.choice([h for h in (1, 2, 3) if d % h == 0])
        self.inner = nn.MultiheadAttention(
            d, heads, bias=pick.random() < 0.7, batch_first=self.first
        )
        self.what = f"{heads=} {self.first=} {self.padding=} {self.causal=} {self.weights=}"

    def forward(self, h, mask, route):
        length = h.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).triu(1) if self.causal else None
        x = h if self.first else h.transpose(0, 1)
        # The first position exists everywhere: no row of the attention is empty.
        out = self.inner(
            x,
            x,
            x,
            key_padding_mask=~mask if self.padding else None,
            attn_mask=causal,
            need_weights=self.weights,
        )[0]
        return out if self.first else out.transpose(0, 1)


class OwnAttention(Piece):
    """Queries, keys and values from one matrix, as most transformers write it."""

    def make(self, pick, d, length):
        self.heads = pick.choice([h for h in (1, 2, 3) if d % h == 0])
        self.causal = pick.random() < 0.5
        self.fused = pick.random() < 0.5
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d, bias=False)
        self.what = f"{self.heads=} {self.causal=} {self.fused=}"

    def forward(self, h, mask, route):
        n, length, d = h.shape
        q, k, v = (
            x.reshape(n, length, self.heads, -1).transpose(1, 2)
            for x in self.qkv(h).chunk(3, dim=-1)
        )
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            scores = q @ k.mT / q.shape[-1] ** 0.5
            if self.causal:
                later = torch.ones(length, length, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, -1e9)
            out = scores.softmax(-1) @ v
        return self.out(out.transpose(1, 2).reshape(n, length, d))


class Encoder(Piece):
    """torch's transformer encoder, which in evaluation has a path of its own without gradients."""

    eval_only = True

    def make(self, pick, d, length):
        heads = pick.choice([h for h in (1, 2) if d % h == 0])
        first, before = pick.random() < 0.7, pick.random() < 0.3
        layer = nn.TransformerEncoderLayer(
            d,
            heads,
            d + 1,
            dropout=0.1,
            activation=pick.choice(["gelu", F.gelu, F.silu]),
            batch_first=first,
            norm_first=before,
        )
        self.stacked = pick.random() < 0.5
        self.first, self.padding = first, pick.random() < 0.7
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.inner = nn.TransformerEncoder(layer, 1) if self.stacked else layer
        self.what = f"{heads=} {first=} norm_first={before} {self.stacked=} {self.padding=}"

    def forward(self, h, mask, route):
        x = h if self.first else h.transpose(0, 1)
        out = self.inner(x, src_key_padding_mask=~mask if self.padding else None)
        return out if self.first else out.transpose(0, 1)


class Norm(Piece):
    def make(self, pick, d, length):
        self.what = variant(
            pick,
            "layer; layer without bias; layer over all; rms; group; batch; batch rows; instance",
        )
        if self.what in ("instance", "group") and length == 1:  # torch wants more than one value
            self.what = "layer"
        self.eval_only = self.what.startswith("batch")
        match self.what:
            case "layer":
                self.inner = nn.LayerNorm(d)
            case "layer without bias":
                self.inner = nn.LayerNorm(d, bias=False)
            case "layer over all":
                self.inner = nn.LayerNorm((length, d))
            case "rms":
                self.inner = nn.RMSNorm(d, eps=1e-3)
            case "group":
                self.inner = nn.GroupNorm(pick.choice([g for g in (1, 2, d) if d % g == 0]), d)
            case "instance":
                self.inner = nn.InstanceNorm1d(d, affine=True)
            case _:
                self.inner = nn.BatchNorm1d(d)
                self.inner.running_mean.uniform_(-0.5, 0.5)
                self.inner.running_var.uniform_(0.5, 2.0)
        for p in self.inner.parameters():
            nn.init.uniform_(p, 0.3, 1.5)
        # What is normalised over a few near-constant entries has no digits left to compare.
        if hasattr(self.inner, "eps"):
            self.inner.eps = 0.1

    def forward(self, h, mask, route):
        if self.what in ("group", "batch", "instance"):
            return self.inner(h.mT).mT
        if self.what == "batch rows":
            return self.inner(h.reshape(-1, h.shape[-1])).view_as(h)
        return self.inner(h)


class Conv(Piece):
    def make(self, pick, d, length):
        dims = pick.choice([1, 1, 2])
        bias = pick.random() < 0.7
        groups = pick.choice([g for g in (1, 1, 2, d) if d % g == 0])
        mode = pick.choice(["zeros", "zeros", "circular", "same", "stride"])
        dilation = pick.choice([1, 1, 2])
        self.causal = False
        self.dims, self.mode = dims, mode
        if mode == "circular" and length < 3:
            mode = self.mode = "zeros"
        if dims == 1:
            self.inner = nn.Conv1d(
                d,
                d,
                3,
                stride=2 if mode == "stride" else 1,
                padding="same" if mode == "same" else dilation,
                dilation=dilation,
                groups=groups,
                bias=bias,
                padding_mode="circular" if mode == "circular" and dilation <= length else "zeros",
            )
        else:
            self.up = nn.Conv2d(1, 2, (3, 2), padding=(1, 1), bias=bias)
            self.down = nn.Conv2d(2, 1, (1, 2), groups=1, bias=bias)
        self.what = f"{dims=} {bias=} {groups=} {mode=} {dilation=}"

    def forward(self, h, mask, route):
        if self.dims == 2:
            return self.down(torch.tanh(self.up(h[:, None])))[:, 0]
        out = self.inner(h.mT)
        if self.mode == "stride":
            out = out.repeat_interleave(2, 2)[..., : h.shape[1]]
        return out.mT


class OneByOne(Piece):
    """A loop over the samples of the batch, with what layers do without a batch dimension."""

    def make(self, pick, d, length):
        self.what = pick.choice(["conv1d", "linear", "table[k]", "attention", "lstm", "vmap"])
        self.inner = {
            "conv1d": lambda: nn.Conv1d(d, d, 3, padding=1),
            "linear": lambda: nn.Linear(d, d),
            "vmap": lambda: nn.Linear(d, d),
            "table[k]": lambda: nn.Identity(),
            "attention": lambda: nn.MultiheadAttention(d, 1),
            "lstm": lambda: nn.LSTM(d, d),
        }[self.what]()
        if self.what == "table[k]":
            self.table = matrix(ROUTES, d)

    def forward(self, h, mask, route):
        match self.what:
            case "conv1d":
                return torch.stack([self.inner(one.T).T for one in h])
            case "linear":
                return torch.stack([self.inner(one) for one in h])
            case "attention":
                return torch.stack([self.inner(one, one, one)[0] for one in h])
            case "lstm":
                return torch.stack([self.inner(one)[0] for one in h])
            case "vmap":
                return torch.vmap(self.inner)(h)
            case _:
                return h + torch.stack([self.table[k] for k in route[:, 0]])[:, None]


class Table(Piece):
    """A table of positions or kinds, looked up by what is no sample."""

    def make(self, pick, d, length):
        self.what = variant(
            pick,
            "arange; [:T]; [None]; expand; kinds; F.embedding; sliced; arange (1, T); take; "
            "index_select; one hot; broadcast_to",
        )
        if self.what in ("arange", "arange (1, T)"):
            self.table = nn.Embedding(length + 1, d)
        elif self.what == "kinds":
            self.table = nn.Embedding(ROUTES, d, padding_idx=pick.choice([None, 0]))
        else:
            self.w = matrix(max(length + 1, ROUTES), d)

    def forward(self, h, mask, route):
        n, length, _ = h.shape
        match self.what:
            case "arange":
                return h + self.table(torch.arange(length))
            case "arange (1, T)":
                return h + self.table(torch.arange(length)[None])
            case "kinds":
                return h + self.table(route)
            case "[:T]":
                return h + self.w[:length]
            case "[None]":
                return h + self.w[None, :length]
            case "expand":
                return h + self.w[:length].expand(n, -1, -1)
            case "broadcast_to":
                return h * (1 + torch.broadcast_to(self.w[:length], h.shape))
            case "F.embedding":
                return h + F.embedding(route, self.w)
            case "sliced":
                return h + self.w[1 : length + 1]
            case "take":
                return h + self.w[route]
            case "index_select":
                return h + self.w.index_select(0, route.reshape(-1)).view_as(h)
            case _:
                return h + F.one_hot(route, len(self.w)).to(self.w) @ self.w


class Scalars(Piece):
    def make(self, pick, d, length):
        self.what = pick.choice(["a * b * h", "a * (b * h)", "exp", "vector", "in place", "fill"])
        self.a, self.b = (nn.Parameter(torch.tensor(pick.uniform(0.5, 1.5))) for _ in range(2))
        if self.what in ("vector", "in place"):
            del self.a, self.b
            self.scale, self.shift = (nn.Parameter(torch.randn(d) * 0.5 + 1) for _ in range(2))

    def forward(self, h, mask, route):
        match self.what:
            case "a * b * h":
                return self.a * self.b * h
            case "a * (b * h)":
                return self.a * (self.b * h)
            case "exp":
                return self.a.exp() * h + self.b.sin()
            case "vector":
                return h * self.scale + self.shift
            case "in place":
                h = h.clone()
                h *= self.scale
                h += self.shift
                return h.tanh_()
            case _:
                return torch.where(mask[..., None], h * self.a, self.b)
