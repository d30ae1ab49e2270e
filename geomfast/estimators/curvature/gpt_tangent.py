"""The R-operator of a GPT's body: tangents of its logits, and of its gradient given theirs.

Pearlmutter (1994), "Fast exact multiplication by the Hessian": the gradient's algorithm,
differentiated forward. Every linear layer costs 6 products of matrices where the gradient's own
algorithm has 3. Shapes as in `gpt_point`, with k probes in front; `_dot` is the tangent of a thing.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from geomfast.estimators.curvature.gpt_linear import (
    Affine,
    Values,
    add_weight_tangent,
    adjoint_tangent,
    forward_tangent,
)
from geomfast.estimators.curvature.gpt_point import (
    PARTS,
    BlockPoint,
    Body,
    ChunkPoint,
    add_by_token,
    asking,
    asking_view,
    queries,
)
from geomfast.kernels.tangents import AttentionTangent, NormTangent


class BlockTangent(NamedTuple):
    """What the way back needs of the tangents on the way there."""

    norm_1: NormTangent
    queries: Tensor  # (k, m, d), the normed rows that ask
    attention: AttentionTangent
    mixed: Tensor
    norm_2: NormTangent
    up: Tensor
    hidden: Tensor


class ChunkTangent(NamedTuple):
    blocks: list[BlockTangent]
    norm: NormTangent


class Directions:
    """k directions in parameter space, and the sum over chunks of the products with them.

    Args:
        body: the model at its point.
        ops: the operations of a backend of `kernels.tangents`.
        dot: (k, *shape) for every parameter by name.
    """

    def __init__(self, body: Body, ops: ModuleType, dot: Values):
        self.body, self.ops, self.dot = body, ops, dot
        self.probes = len(dot["positions"])
        self.dots = {name: layer.tangent(body.at, dot) for name, layer in body.linear.items()}
        self.sums = {name: layer.zeros(self.probes) for name, layer in body.layers.items()}
        self.out = {name: torch.zeros_like(d) for name, d in dot.items()}

    def forward(self, chunk: ChunkPoint) -> tuple[Tensor, ChunkTangent]:
        """Tangent (k, m, V) of the logits, and what the way back needs."""
        length = chunk.tokens.shape[1]
        x_dot = self.dot["tokens.weight"][:, chunk.tokens]
        x_dot = (x_dot + self.dot["positions"][:, None, :length]).flatten(1, 2)
        blocks = []
        for name, point in zip(self.body.blocks, chunk.blocks, strict=True):
            x_dot, tangent = self._block(name, point, x_dot)
            blocks.append(tangent)
        norm = self.ops.layer_norm_tangent(chunk.norm, x_dot)
        layer, dot = self.body.layers["logits"], self.dots["logits"]
        logits_dot = forward_tangent(layer, dot, chunk.norm.normed, norm.normed)
        return logits_dot, ChunkTangent(blocks, norm)

    def backward(self, chunk: ChunkPoint, tangent: ChunkTangent, logits_bar_dot: Tensor) -> None:
        """Adds the chunk's share of the products, given the logits' adjoint's tangent (k, m, V)."""
        out_bar_dot = torch.zeros_like(tangent.norm.normed)
        a_dot = self._linear_back(
            "logits", chunk.norm.normed, tangent.norm.normed, chunk.logits_bar, logits_bar_dot
        )
        self.ops.layer_norm_adjoint_tangent(chunk.norm, tangent.norm, a_dot, out_bar_dot)
        for name, point, there in zip(
            self.body.blocks[::-1], chunk.blocks[::-1], tangent.blocks[::-1], strict=True
        ):
            out_bar_dot = self._block_back(name, point, there, out_bar_dot)
        for probe, rows in enumerate(out_bar_dot):
            out = {name: self.out[name][probe] for name in ("tokens.weight", "positions")}
            add_by_token(out, chunk.tokens, rows)

    def products(self) -> Values:
        """(k, *shape) by parameter; ends the sums."""
        for name, linear in self.body.linear.items():
            bar = self.body.gradients[name]
            linear.add_gradient_tangent(self.body.at, self.dot, bar, self.sums[name], self.out)
        return self.out

    def _block(self, name: str, point: BlockPoint, x_dot: Tensor) -> tuple[Tensor, BlockTangent]:
        """Tangent (k, m, d) of the block's output from that of its input (k, M, d)."""
        ops, layers, dots = self.ops, *self._layers(name)
        n, heads, t, _ = point.attention.q.shape
        start = point.attention.k.shape[2] - t
        norm_1 = ops.layer_norm_tangent(point.norm_1, x_dot)
        (by_q, by_kv), (by_q_dot, by_kv_dot) = map(
            queries, (layers["attention_in"], dots["attention_in"])
        )
        normed_q = asking(point.norm_1.normed, n, start)
        normed_q_dot = asking(norm_1.normed, n, start)
        q_dot = forward_tangent(by_q, by_q_dot, normed_q, normed_q_dot)
        kv_dot = forward_tangent(by_kv, by_kv_dot, point.norm_1.normed, norm_1.normed)
        mixed_dot, attention = ops.attention_tangent(
            point.attention,
            q_dot.unflatten(1, (n, t)).unflatten(-1, (heads, -1)),
            kv_dot.unflatten(1, (n, -1)).unflatten(-1, (2, heads, -1)),
        )
        mixed_dot = mixed_dot.reshape(q_dot.shape)
        middle_dot = forward_tangent(
            layers["attention_out"], dots["attention_out"], point.mixed, mixed_dot
        )
        middle_dot += asking(x_dot, n, start)
        norm_2 = ops.layer_norm_tangent(point.norm_2, middle_dot)
        up_dot = forward_tangent(
            layers["mlp_in"], dots["mlp_in"], point.norm_2.normed, norm_2.normed
        )
        hidden_dot = ops.gelu_tangent(point.gelu, up_dot)
        out_dot = forward_tangent(layers["mlp_out"], dots["mlp_out"], point.hidden, hidden_dot)
        out_dot += middle_dot
        there = BlockTangent(norm_1, normed_q_dot, attention, mixed_dot, norm_2, up_dot, hidden_dot)
        return out_dot, there

    def _block_back(
        self, name: str, point: BlockPoint, there: BlockTangent, out_bar_dot: Tensor
    ) -> Tensor:
        """Tangent (k, M, d) of the input's adjoint from that of the output's (k, m, d)."""
        ops = self.ops
        n, heads, t, _ = point.attention.q.shape
        start = point.attention.k.shape[2] - t
        hidden_bar_dot = self._linear_back(
            f"{name}.mlp_out", point.hidden, there.hidden, point.out_bar, out_bar_dot
        )
        up_bar_dot = ops.gelu_adjoint_tangent(point.gelu, there.up, hidden_bar_dot)
        a_dot = self._linear_back(
            f"{name}.mlp_in", point.norm_2.normed, there.norm_2.normed, point.up_bar, up_bar_dot
        )
        middle_bar_dot = out_bar_dot
        ops.layer_norm_adjoint_tangent(point.norm_2, there.norm_2, a_dot, middle_bar_dot)
        o_bar_dot = self._linear_back(
            f"{name}.attention_out", point.mixed, there.mixed, point.middle_bar, middle_bar_dot
        )
        q_bar_dot, kv_bar_dot = ops.attention_adjoint_tangent(
            point.attention,
            there.attention,
            o_bar_dot.unflatten(1, (n, t)).unflatten(-1, (heads, -1)),
        )
        layer = f"{name}.attention_in"
        (by_q, by_kv), (by_q_dot, by_kv_dot), (to_q, to_kv) = map(
            queries, (self.body.layers[layer], self.dots[layer], self.sums[layer])
        )
        q_bar_dot = q_bar_dot.reshape(middle_bar_dot.shape)
        kv_bar_dot = kv_bar_dot.flatten(1, 2).flatten(2)
        normed_q = asking(point.norm_1.normed, n, start)
        add_weight_tangent(to_q, normed_q, there.queries, point.q_bar, q_bar_dot)
        add_weight_tangent(
            to_kv, point.norm_1.normed, there.norm_1.normed, point.kv_bar, kv_bar_dot
        )
        a_dot = adjoint_tangent(by_kv, by_kv_dot, point.kv_bar, kv_bar_dot)
        a_dot_q = adjoint_tangent(by_q, by_q_dot, point.q_bar, q_bar_dot)
        asking_view(a_dot, n, start).add_(asking_view(a_dot_q, n, 0))
        if start:
            x_bar_dot = torch.zeros_like(a_dot)
            asking_view(x_bar_dot, n, start).copy_(asking_view(middle_bar_dot, n, 0))
        else:
            x_bar_dot = middle_bar_dot
        ops.layer_norm_adjoint_tangent(point.norm_1, there.norm_1, a_dot, x_bar_dot)
        return x_bar_dot

    def _layers(self, name: str) -> tuple[dict[str, Affine], dict[str, Affine]]:
        layers, dots = (
            {part: of[f"{name}.{part}"] for part in PARTS} for of in (self.body.layers, self.dots)
        )
        return layers, dots

    def _linear_back(
        self, layer: str, x: Tensor, x_dot: Tensor, y_bar: Tensor, y_bar_dot: Tensor
    ) -> Tensor:
        """Adds a layer's share to the sums; the tangent (k, M, i) of its input's adjoint."""
        add_weight_tangent(self.sums[layer], x, x_dot, y_bar, y_bar_dot)
        return adjoint_tangent(self.body.layers[layer], self.dots[layer], y_bar, y_bar_dot)
