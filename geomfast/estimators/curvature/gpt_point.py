"""A GPT's activations and adjoints at a point: all that products with its Hessian start from.

Only positions whose logits reach the loss matter in the last block, beyond its keys and values:
there the last t of T positions are computed. Shapes: n samples, M = n T rows, m = n t rows, d wide;
t = T in every other block. `_bar` is the adjoint of a thing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.estimators.curvature.gpt_linear import (
    Affine,
    Linear,
    Values,
    add_weight_gradient,
    apply,
)
from geomfast.kernels.tangents import Attention, Gelu, Norm, nbytes
from geomfast.testbed.models.gpt import GPT

#: Linear layers of a block.
PARTS = ("attention_in", "attention_out", "mlp_in", "mlp_out")


@dataclass
class BlockPoint:
    """One block. Its attention's q, k, v and o have their heads before their positions."""

    norm_1: Norm  # M rows
    attention: Attention
    q_bar: Tensor  # (m, d)
    kv_bar: Tensor  # (M, 2 d)
    mixed: Tensor  # (m, d), output of the attention: its o
    middle_bar: Tensor  # (m, d), of the stream between attention and MLP
    norm_2: Norm  # m rows
    gelu: Gelu
    up_bar: Tensor  # (m, 4 d), of what goes into the GELU
    hidden: Tensor  # (m, 4 d), what comes out
    out_bar: Tensor  # (m, d), of the block's output

    @property
    def nbytes(self) -> int:
        """Of this block alone: the output's adjoint belongs to the next one."""
        layers = nbytes(self.norm_1) + nbytes(self.norm_2) + nbytes(self.attention)
        rows = (self.q_bar, self.kv_bar, self.middle_bar, self.up_bar, self.hidden)
        return layers + nbytes(self.gelu) + sum(x.nbytes for x in rows)


@dataclass
class ChunkPoint:
    """A whole model on a few samples; the final LayerNorm has m rows."""

    tokens: Tensor  # (n, T)
    blocks: list[BlockPoint]
    norm: Norm
    logits_bar: Tensor  # (m, V)

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks) + nbytes(self.norm)


class Body:
    """A GPT from tokens to logits; its parameters are copied.

    Attributes:
        at: parameters by name.
        linear, layers: its linear layers, and what they are at the point.
        gradients: of the sum over all chunks, by the layers.
        by_token: of the same by the embeddings alone, without the logits' share.
    """

    def __init__(self, model: GPT):
        self.at: Values = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.heads, self.width = model.scale.heads, model.scale.d_model
        self.blocks = [f"blocks.{i}" for i in range(len(model.blocks))]
        self.eps = {
            name: module.eps
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.LayerNorm)
        }
        self.linear = {"logits": Linear("tokens.weight", norm="norm")}
        for block in self.blocks:
            norms = {"attention_in": f"{block}.norm_1", "mlp_in": f"{block}.norm_2"}
            for part in PARTS:
                scale = math.sqrt(self.heads / self.width) if part == "attention_in" else 1.0
                layer, norm = f"{block}.{part}", norms.get(part, "")
                self.linear[layer] = Linear(f"{layer}.weight", f"{layer}.bias", norm, scale)
        self.layers = {name: layer.folded(self.at) for name, layer in self.linear.items()}
        self.gradients = {name: layer.zeros() for name, layer in self.layers.items()}
        embeddings = ("tokens.weight", "positions")
        self.by_token = {name: torch.zeros_like(self.at[name]) for name in embeddings}

    def chunk(self, tokens: Tensor, first: int, logits_bar: Tensor) -> ChunkPoint:
        """The point on some samples; their share is added to `gradients`.

        Args:
            tokens: (n, T).
            first: position of the first logits that count.
            logits_bar: (m, V), their adjoint.
        """
        n, length = tokens.shape
        x = (self.at["tokens.weight"][tokens] + self.at["positions"][:length]).flatten(0, 1)
        there = []
        for block in self.blocks:
            start = first if block == self.blocks[-1] else 0
            there.append(BlockOnTheWay(self, block, x, n, start))
            x = there[-1].out
        normed, rstd = self.normalised(x, "norm")
        layer = self.layers["logits"]
        add_weight_gradient(self.gradients["logits"], normed, logits_bar)
        norm = pulled_back(normed, rstd, logits_bar @ layer.w.mT)
        out_bar, blocks = norm.pulled, []
        while there:
            point, out_bar = there.pop().back(out_bar)
            blocks.append(point)
        add_by_token(self.by_token, tokens, out_bar)
        return ChunkPoint(tokens, blocks[::-1], norm, logits_bar)

    def gradient(self) -> Values:
        """(*shape) by parameter, of the sum over all chunks."""
        # Of the folded layers the gradients are `gradients`; the way from those to the parameters'
        # is linear, so its tangent while the parameters rest is itself.
        rest = {name: torch.zeros_like(p)[None] for name, p in self.at.items()}
        out = {name: torch.zeros_like(p)[None] for name, p in self.at.items()}
        for name, linear in self.linear.items():
            bar = self.gradients[name]
            given = Affine(bar.w.clone()[None], bar.c.clone()[None])
            linear.add_gradient_tangent(self.at, rest, bar.zeros(), given, out)
        for name, share in self.by_token.items():
            out[name][0] += share
        return {name: rows[0] for name, rows in out.items()}

    def normalised(self, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """LayerNorm without gain and offset, and 1 / standard deviation."""
        normed, _, rstd = torch.native_layer_norm(x, [self.width], None, None, self.eps[name])
        return normed, rstd

    def by_head(self, x: Tensor, n: int) -> Tensor:
        """(n t, d) -> (n, heads, t, d / heads), contiguous."""
        return x.unflatten(0, (n, -1)).unflatten(2, (self.heads, -1)).transpose(1, 2).contiguous()


class BlockOnTheWay:
    """A block's activations, until its output's adjoint is known."""

    def __init__(self, body: Body, name: str, x: Tensor, n: int, start: int):
        self.body, self.n, self.start = body, n, start
        self.layers, self.gradients = (
            {part: by_name[f"{name}.{part}"] for part in PARTS}
            for by_name in (body.layers, body.gradients)
        )
        self.normed_1, self.rstd_1 = body.normalised(x, f"{name}.norm_1")
        by_q, by_kv = queries(self.layers["attention_in"])
        q = apply(by_q, asking(self.normed_1, n, start))
        k, v = apply(by_kv, self.normed_1).chunk(2, -1)
        self.q, self.k, self.v = (body.by_head(y, n) for y in (q, k, v))
        scores = self.q @ self.k.mT
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).tril(start)
        self.p = scores.masked_fill_(~allowed, -math.inf).softmax(-1)
        self.mixed = (self.p @ self.v).transpose(1, 2).reshape(q.shape)
        x = asking(x, n, start) + apply(self.layers["attention_out"], self.mixed)
        self.normed_2, self.rstd_2 = body.normalised(x, f"{name}.norm_2")
        h = apply(self.layers["mlp_in"], self.normed_2)
        self.hidden = F.gelu(h)
        density = torch.exp(h.square() / -2) / math.sqrt(2 * math.pi)
        self.slope = torch.special.ndtr(h) + h * density
        self.curve = density * (2 - h.square())
        self.out = x + apply(self.layers["mlp_out"], self.hidden)

    def back(self, out_bar: Tensor) -> tuple[BlockPoint, Tensor]:
        """The block's point, and the adjoint (M, d) of its input."""
        layers, gradients, n = self.layers, self.gradients, self.n
        hidden_bar = out_bar @ layers["mlp_out"].w.mT
        up_bar, curve = self.slope * hidden_bar, self.curve.mul_(hidden_bar)
        norm_2 = pulled_back(self.normed_2, self.rstd_2, up_bar @ layers["mlp_in"].w.mT)
        middle_bar = out_bar + norm_2.pulled
        o_bar = self.body.by_head(middle_bar @ layers["attention_out"].w.mT, n)
        p_bar = o_bar @ self.v.mT
        centered = p_bar - (self.p * p_bar).sum(-1, keepdim=True)
        s_bar = self.p * centered
        o = self.mixed.view(n, -1, *o_bar.shape[1:2], o_bar.shape[3])
        attention = Attention(self.q, self.k, self.v, self.p, o, o_bar, s_bar, centered)
        to_q, to_k, to_v = s_bar @ self.k, s_bar.mT @ self.q, self.p.mT @ o_bar
        q_bar = to_q.transpose(1, 2).reshape(middle_bar.shape)
        kv_bar = torch.stack((to_k.transpose(1, 2), to_v.transpose(1, 2)), 2).flatten(0, 1)
        kv_bar = kv_bar.flatten(1)
        by_q, by_kv = queries(layers["attention_in"])
        a = kv_bar @ by_kv.w.mT
        asking_view(a, n, self.start).add_((q_bar @ by_q.w.mT).unflatten(0, (n, -1)))
        norm_1 = pulled_back(self.normed_1, self.rstd_1, a)
        x_bar = norm_1.pulled.clone()
        asking_view(x_bar, n, self.start).add_(middle_bar.unflatten(0, (n, -1)))
        to_q, to_kv = queries(gradients["attention_in"])
        add_weight_gradient(to_q, asking(self.normed_1, n, self.start), q_bar)
        add_weight_gradient(to_kv, self.normed_1, kv_bar)
        add_weight_gradient(gradients["attention_out"], self.mixed, middle_bar)
        add_weight_gradient(gradients["mlp_in"], self.normed_2, up_bar)
        add_weight_gradient(gradients["mlp_out"], self.hidden, out_bar)
        gelu = Gelu(self.slope, curve)
        point = BlockPoint(
            norm_1, attention, q_bar, kv_bar, self.mixed, middle_bar, norm_2, gelu, up_bar,
            self.hidden, out_bar,
        )  # fmt: skip
        return point, x_bar


def pulled_back(normed: Tensor, rstd: Tensor, a: Tensor) -> Norm:
    """A LayerNorm's point, given the adjoint (M, d) of its output."""
    overlap = (normed * a).mean(-1, keepdim=True)
    pulled = rstd * (a - a.mean(-1, keepdim=True) - normed * overlap)
    return Norm(normed, rstd, pulled, overlap)


def add_by_token(out: Values, tokens: Tensor, x_bar: Tensor) -> None:
    """Adds the gradients by the embeddings to out: tokens (n, T), x_bar (n T, d)."""
    rows = x_bar.unflatten(0, tokens.shape)
    out["positions"][: tokens.shape[1]] += rows.sum(0)
    weight = out["tokens.weight"]
    weight += torch.ops.aten.embedding_dense_backward(rows, tokens, len(weight), -1, False)


def queries(layer: Affine) -> tuple[Affine, Affine]:
    """Of attention_in: what makes the queries, and what makes keys and values."""
    width = layer.c.shape[-1] // 3
    return layer.columns(0, width), layer.columns(width, 3 * width)


def asking_view(x: Tensor, n: int, start: int) -> Tensor:
    """(..., n T, d) -> (..., n, t, d), a view of the positions from start on."""
    return x.unflatten(-2, (n, -1))[..., start:, :]


def asking(x: Tensor, n: int, start: int) -> Tensor:
    """(..., n T, d) -> (..., n t, d), the positions from start on."""
    return asking_view(x, n, start).flatten(-3, -2) if start else x
