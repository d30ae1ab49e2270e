"""More parts of drawn models: attention, norms, convolutions, loops over samples, tables."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import nn

from tests.property.pieces import ROUTES, Piece, matrix


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
    ways = "layer; layer without bias; layer over all; rms; group; batch; batch rows; instance"

    def make(self, pick, d, length):
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

    ways = "conv1d; linear; table[k]; attention; lstm; vmap"

    def make(self, pick, d, length):
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

    ways = """
        arange; [:T]; [None]; expand; kinds; F.embedding; sliced; arange (1, T); take;
        index_select; one hot; broadcast_to
    """

    def make(self, pick, d, length):
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
    ways = "a * b * h; a * (b * h); exp; vector; in place; fill"

    def make(self, pick, d, length):
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
