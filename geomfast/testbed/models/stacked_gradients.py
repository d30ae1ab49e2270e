"""Losses and gradients of stacked GPTs on the CPU, written by hand.

Autograd allocates every activation and every gradient anew, so that a step of many small members
waits for the system to hand out pages, and it passes over gradients once more to put them where
the optimiser reads them. Here every step writes to the same memory, and a gradient is written once.
Nothing is computed that no loss depends on: tokens of padding, and in the last block, after its
attention, tokens whose logits are not read.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from geomfast.kernels import member_norm, row_attention
from geomfast.kernels.member_norm import MemberNorm
from geomfast.testbed.models.positions import alibi_slopes, rotary_angles
from geomfast.testbed.models.stacked import StackedGPT
from geomfast.testbed.models.stacked_layout import Buffers, Layout

# torch hands out no other way to write these where one wants.
_gelu = torch.ops.aten.gelu.out
_gelu_backward = torch.ops.aten.gelu_backward.grad_input
_log_softmax = torch.ops.aten._log_softmax.out


class _Kept(NamedTuple):
    """Values that the backward pass of a block needs."""

    norm_1: MemberNorm
    attention_in: Tensor
    qkv: Tensor  # as attention takes them, turned
    attention_out: Tensor
    norm_2: MemberNorm
    mlp_in: Tensor
    before_gelu: Tensor
    mlp_out: Tensor


class _Pass(NamedTuple):
    """Values of a whole forward pass that the backward pass needs."""

    indices: list[Tensor]
    rows: _Rows
    read: Tensor
    kept: list[_Kept]
    final: Tensor
    norm: MemberNorm


class _Rows(NamedTuple):
    """What attention asks of a layout: where rows begin, and how queries and keys are turned."""

    offsets: Tensor
    turns: Tensor | None  # (R, d) complex, a factor of every pair of numbers of a token's two
    turns_back: Tensor | None  # their inverses


class StackedGradients:
    """Losses of C members and their gradients.

    Args:
        model: the members, on the CPU; read at every call.
        gradients: (C, P), laid out as the model's weights; written by every call.
        buffers: memory to work in, which several of these may share.
    """

    def __init__(self, model: StackedGPT, gradients: Tensor, buffers: Buffers) -> None:
        self.model, self._buffer = model, buffers
        self._p = dict(zip(model.names, model.views(model.weights), strict=True))
        self._g = dict(zip(model.names, model.views(gradients), strict=True))
        self._row_attention = row_attention.OP[row_attention.OP.backend_for(gradients)]
        self._member_norm = member_norm.OP[member_norm.OP.backend_for(gradients)]
        scale = model.scale
        self._slopes = alibi_slopes(scale.heads).float() if scale.positions == "alibi" else None
        self._layouts: dict[Hashable, tuple[Layout, _Rows]] = {}
        self._pass: _Pass

    @torch.no_grad()
    def losses(
        self,
        buckets: list[Tensor],
        lengths: list[tuple[int, ...]],
        starts: list[Tensor] | None,
        targets: Tensor,
        read: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Each member's loss, whose gradient is written where it belongs.

        Args:
            buckets, starts: as of :meth:`StackedGPT.forward_buckets`.
            lengths: of each bucket's rows without padding.
            targets: (C, A) ids that the A logits read should predict.
            read: (A,) indices of their tokens, each once and none of padding.
            weights: (A,) what the nats of each count for in the loss.

        Returns:
            (C,) nats.
        """
        logits = self.forward(buckets, lengths, starts, read)
        logs = _log_softmax(logits, -1, False, out=self._buffer("logs", *logits.shape))
        at = targets[..., None]
        losses = -(logs.gather(-1, at)[..., 0] * weights).sum(1)
        into = logs.exp_().scatter_add_(-1, at, torch.full_like(logs[..., :1], -1.0))
        into *= weights[:, None]
        self.backward(into)
        return losses

    @torch.no_grad()
    def forward(
        self,
        buckets: list[Tensor],
        lengths: list[tuple[int, ...]],
        starts: list[Tensor] | None,
        read: Tensor,
    ) -> Tensor:
        """The logits that are read, and all that :meth:`backward` needs of this pass.

        Args:
            buckets, lengths, starts, read: as of :meth:`losses`.

        Returns:
            (C, A, vocabulary), until the next pass.
        """
        shapes = [(b.shape[1], b.shape[2]) for b in buckets]
        key = (tuple(shapes), tuple(lengths))
        if key not in self._layouts:
            layout = Layout(shapes, lengths)
            self._layouts[key] = layout, self._rows(layout)
        layout, rows = self._layouts[key]
        indices = [x.index_select(1, layout.real) for x in self.model.indices(buckets, starts)]
        read = layout.place.index_select(0, read)
        x = self._embed(indices)
        kept = []
        last = self.model.scale.layers - 1
        for i in range(last + 1):
            x, block = self._block(i, x, rows, read if i == last else None)
            kept.append(block)
        final, norm = self._norm("norm", x)
        self._pass = _Pass(indices, rows, read, kept, final, norm)
        table = self._p["tokens.weight"]
        shape = (*final.shape[:2], table.shape[1])
        return torch.bmm(final, table.mT, out=self._buffer("logits", *shape))

    @torch.no_grad()
    def backward(self, into: Tensor) -> None:
        """Writes the gradients of all weights, of the last pass.

        Args:
            into: (C, A, vocabulary) gradient of the logits that it gave.
        """
        indices, rows, read, kept, final, norm = self._pass
        table = self._p["tokens.weight"]
        # Of the logits, then of everything before them in turn.
        torch.bmm(into.mT, final, out=self._g["tokens.weight"])
        narrow = torch.bmm(into, table, out=self._buffer("narrow", *final.shape))
        into = self._buffer("into", *final.shape).zero_()
        self._norm_backward("norm", narrow, norm, into)
        last = len(kept) - 1
        for i in reversed(range(last + 1)):
            into = self._block_backward(i, into, kept[i], rows, read if i == last else None)
        self._embed_backward(into, indices)

    def _rows(self, layout: Layout) -> _Rows:
        scale = self.model.scale
        if scale.positions != "rotary":
            return _Rows(layout.offsets, None, None)
        angles = rotary_angles(layout.within, scale.d_model // scale.heads)
        # Of all heads' queries, then of all heads' keys.
        turns = torch.polar(torch.ones_like(angles), angles).repeat(1, 2 * scale.heads)
        turns = turns.to(torch.complex64)
        return _Rows(layout.offsets, turns, turns.conj().resolve_conj())

    def _embed(self, indices: list[Tensor]) -> Tensor:
        tables, d = self.model.tables, self.model.scale.d_model
        looked_up = [self._buffer(f"{name}.rows", *indices[0].shape, d) for name in tables]
        for name, index, out in zip(tables, indices, looked_up, strict=True):
            table = self._p[name].reshape(-1, d)
            torch.index_select(table, 0, index.flatten(), out=out.view(-1, d))
        x, *places = looked_up
        return x.add_(places[0]) if places else x

    def _embed_backward(self, into: Tensor, indices: list[Tensor]) -> None:
        for name, index in zip(self.model.tables, indices, strict=True):
            target = self._g[name]
            rows = target.shape[0] * target.shape[1]
            found = torch.ops.aten.embedding_dense_backward(into, index, rows, -1, False)
            if name == "positions":
                target.copy_(found.view_as(target))
            else:  # which the logits have written their part to
                target += found.view_as(target)

    def _block(self, i: int, x: Tensor, rows: _Rows, read: Tensor | None) -> tuple[Tensor, _Kept]:
        """Forward pass of a block, like the model's own."""
        c, m, d = x.shape
        name = f"blocks.{i}."
        attention_in, norm_1 = self._norm(f"{name}norm_1", x)
        qkv = self._buffer(f"{name}qkv", c, m, 3 * d)
        self._linear(f"{name}attention_in", attention_in, qkv)
        attended = self._buffer(f"{name}attended", c, m, d)
        self._attend(qkv, rows, attended)
        if read is not None:
            x, attended = (
                torch.index_select(of, 1, read, out=self._buffer(where, c, len(read), d))
                for of, where in ((x, "read.x"), (attended, "read.attended"))
            )
            m = len(read)
        x = self._add_linear(f"{name}attention_out", x, attended)
        mlp_in, norm_2 = self._norm(f"{name}norm_2", x)
        hidden = self._buffer(f"{name}hidden", c, m, 4 * d)
        before_gelu = self._linear(f"{name}mlp_in", mlp_in, hidden)
        mlp_out = self._buffer(f"{name}gelu", c, m, 4 * d)
        _gelu(before_gelu, out=mlp_out)
        kept = _Kept(norm_1, attention_in, qkv, attended, norm_2, mlp_in, before_gelu, mlp_out)
        return self._add_linear(f"{name}mlp_out", x, mlp_out), kept

    def _block_backward(
        self, i: int, into: Tensor, kept: _Kept, rows: _Rows, read: Tensor | None
    ) -> Tensor:
        """Backward pass of a block: gradient of its input from that of its output, overwritten."""
        c, m, d = into.shape
        name = f"blocks.{i}."
        wide = self._buffer("wide", c, m, 4 * d)
        self._linear_backward(f"{name}mlp_out", into, kept.mlp_out, wide)
        _gelu_backward(wide, kept.before_gelu, grad_input=wide)
        narrow = self._buffer("narrow", c, m, d)
        self._linear_backward(f"{name}mlp_in", wide, kept.mlp_in, narrow)
        self._norm_backward(f"{name}norm_2", narrow, kept.norm_2, into)
        self._linear_backward(f"{name}attention_out", into, kept.attention_out, narrow)
        if read is not None:
            m = kept.norm_1.x.shape[1]
            into, narrow = (
                self._buffer(where, c, m, d).zero_().index_copy_(1, read, of)
                for of, where in ((into, "spread.into"), (narrow, "spread.narrow"))
            )
        wide = self._buffer("wide", c, m, 3 * d)
        self._attend(kept.qkv, rows, wide, narrow)
        self._linear_backward(f"{name}attention_in", wide, kept.attention_in, narrow)
        self._norm_backward(f"{name}norm_1", narrow, kept.norm_1, into)
        return into

    def _attend(self, qkv: Tensor, rows: _Rows, out: Tensor, into: Tensor | None = None) -> None:
        """Forward, which turns queries and keys where they are, or backward from those."""
        if into is None:
            _turn(qkv, rows.turns)
        heads = self.model.scale.heads
        self._row_attention.run(qkv, rows.offsets, heads, out, into, self._slopes)
        if into is not None:
            _turn(out, rows.turns_back)

    def _linear(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        weight, bias = self._p[f"{name}.weight"], self._p[f"{name}.bias"]
        return torch.baddbmm(bias[:, None], x, weight.mT, out=out)

    def _add_linear(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """x + W y + b."""
        weight, bias = self._p[f"{name}.weight"], self._p[f"{name}.bias"]
        out = torch.add(x, bias[:, None], out=self._buffer(name, *x.shape))
        return out.baddbmm_(y, weight.mT)

    def _linear_backward(self, name: str, into: Tensor, x: Tensor, out: Tensor) -> None:
        torch.bmm(into.mT, x, out=self._g[f"{name}.weight"])
        torch.sum(into, 1, out=self._g[f"{name}.bias"])
        torch.bmm(into, self._p[f"{name}.weight"], out=out)

    def _norm(self, name: str, x: Tensor) -> tuple[Tensor, MemberNorm]:
        gain, bias = self._p[f"{name}.weight"], self._p[f"{name}.bias"]
        out = self._buffer(f"{name}.out", *x.shape)
        norm = MemberNorm(x, gain, bias, self._buffer(f"{name}.statistics", *x.shape[:2], 2))
        self._member_norm.forward(norm, out)
        return out, norm

    def _norm_backward(self, name: str, into: Tensor, norm: MemberNorm, out: Tensor) -> None:
        """Adds the gradient of a norm's input to ``out``."""
        gradients = self._g[f"{name}.weight"], self._g[f"{name}.bias"]
        self._member_norm.backward(norm, into, out, *gradients)


def _turn(qkv: Tensor, turns: Tensor | None) -> None:
    """Turns queries and keys, or their gradients: (C, R, 3 d) in place, in one pass over them."""
    if turns is not None:
        d = turns.shape[1]
        torch.view_as_complex(qkv[..., : 2 * d].unflatten(-1, (d, 2))).mul_(turns)
