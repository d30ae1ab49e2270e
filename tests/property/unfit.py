"""Parts that make a sample's loss random or dependent on the other samples: to be refused."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.property.pieces import Piece


class Coupled(Piece):
    ways = """
        less the mean; softmax; sorted; batch norm; batch norm without statistics; rolled;
        attention across; lstm across; cumsum; over the norm; similarity; max of the batch;
        next sample; padded to the longest
    """

    def make(self, pick, d, length):
        if self.what.startswith("batch norm"):
            self.inner = nn.BatchNorm1d(d, track_running_stats=self.what == "batch norm")
        elif self.what == "attention across":
            self.inner = nn.MultiheadAttention(d, 1)
        elif self.what == "lstm across":
            self.inner = nn.LSTM(d, d)

    def forward(self, h, mask, route):
        match self.what:
            case "less the mean":
                return h - h.mean(0)
            case "softmax":
                return h.softmax(0)
            case "sorted":
                return h.sort(0).values
            case "rolled":
                return h.roll(1, 0)
            case "attention across":
                return self.inner(h, h, h)[0]
            case "lstm across":
                return self.inner(h)[0]
            case "cumsum":
                return h.cumsum(0)
            case "over the norm":
                return h / h.norm()
            case "similarity":
                x = h.mean(1)
                return h + (x @ x.T).softmax(1).matmul(x)[:, None]
            case "max of the batch":
                return h / (1 + h.abs().amax())
            case "padded to the longest":
                longest = int(mask.sum(1).max())
                return h + h[:, :longest].mean(1, keepdim=True)
            case "next sample":
                return torch.cat([h[1:], h[:1]])
            case _:
                return self.inner(h.mT).mT


class Random(Piece):
    ways = """
        dropout; F.dropout; dropout1d; alpha_dropout; rrelu; lstm; attention; encoder;
        rand_like; randn; bernoulli; drop path; torch.dropout; feature_alpha_dropout; gumbel;
        noise in place; randperm; gru
    """

    def make(self, pick, d, length):
        heads = pick.choice([h for h in (1, 2) if d % h == 0])
        match self.what:
            case "lstm" | "gru":
                kind = nn.LSTM if self.what == "lstm" else nn.GRU
                self.inner = kind(d, d, 2, dropout=0.5, batch_first=True)
            case "attention":
                self.inner = nn.MultiheadAttention(d, heads, dropout=0.5, batch_first=True)
            case "encoder":
                self.inner = nn.TransformerEncoderLayer(
                    d, heads, d, dropout=0.5, activation="gelu", batch_first=True
                )
            case "dropout":
                self.inner = nn.Dropout(0.5)
            case "rrelu":
                self.inner = nn.RReLU(0.1, 0.9)
            case _:
                self.inner = nn.Identity()

    def forward(self, h, mask, route):
        match self.what:
            case "dropout" | "encoder" | "rrelu":
                return self.inner(h)
            case "lstm" | "gru":
                return self.inner(h)[0]
            case "attention":
                return self.inner(h, h, h)[0]
            case "F.dropout":
                return F.dropout(h, 0.5)
            case "torch.dropout":
                return torch.dropout(h, 0.5, True)
            case "dropout1d":
                return F.dropout1d(h, 0.5)
            case "alpha_dropout":
                return F.alpha_dropout(h, 0.5, training=True)
            case "feature_alpha_dropout":
                return F.feature_alpha_dropout(h, 0.5, training=True)
            case "rand_like":
                return h * torch.rand_like(h)
            case "randn":
                return h + torch.randn(h.shape, dtype=h.dtype)
            case "bernoulli":
                return h * torch.bernoulli(torch.full_like(h, 0.5))
            case "gumbel":
                return F.gumbel_softmax(h, dim=-1)
            case "noise in place":
                return h + torch.empty_like(h).normal_()
            case "randperm":
                return h[..., torch.randperm(h.shape[-1])] * torch.arange(1, h.shape[-1] + 1)
            case _:
                return h * torch.empty(len(h), 1, 1, dtype=h.dtype).bernoulli_(0.5)
