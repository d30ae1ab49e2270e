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

from geomfast.models.stacked import StackedGPT
from geomfast.models.stacked_attention import Bucket, Buffers, Heads, Layout, RowAttention

_TABLES = ("tokens.weight", "positions")
_EPS = 1e-5  # of torch's LayerNorm
# torch hands out no other way to write these where one wants.
_gelu = torch.ops.aten.gelu.out
_gelu_backward = torch.ops.aten.gelu_backward.grad_input


class _Normed(NamedTuple):
    """What the backward pass of a norm needs: its input, and that without mean and deviation."""

    x: Tensor
    normal: Tensor
    mean: Tensor
    rstd: Tensor


class _Kept(NamedTuple):
    """What the backward pass of a block needs."""

    norm_1: _Normed
    attention_in: Tensor
    heads: list[Heads]
    attention_out: Tensor
    norm_2: _Normed
    mlp_in: Tensor
    before_gelu: Tensor
    mlp_out: Tensor


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
        self._attention = RowAttention(model.scale.heads, buffers)
        self._layouts: dict[Hashable, Layout] = {}

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
        shapes = [(b.shape[1], b.shape[2]) for b in buckets]
        key = (tuple(shapes), tuple(lengths))
        if key not in self._layouts:
            self._layouts[key] = Layout(shapes, lengths)
        layout = self._layouts[key]
        tokens, places = (
            x.index_select(1, layout.real) for x in self.model.indices(buckets, starts)
        )
        read = layout.place.index_select(0, read)
        x = self._embed(tokens, places)
        kept = []
        last = self.model.scale.layers - 1
        for i in range(last + 1):
            x, block = self._block(i, x, layout.buckets, read if i == last else None)
            kept.append(block)
        final, norm = self._norm("norm", x)
        table = self._p["tokens.weight"]
        logs = torch.bmm(final, table.mT).log_softmax(-1)
        at = targets[..., None]
        losses = -(logs.gather(-1, at)[..., 0] * weights).sum(1)
        # The gradient of the logits, then of everything before them in turn.
        into = logs.exp_().scatter_add_(-1, at, torch.full_like(logs[..., :1], -1.0))
        into *= weights[:, None]
        torch.bmm(into.mT, final, out=self._g["tokens.weight"])
        into = self._norm_backward("norm", torch.bmm(into, table), norm)
        for i in reversed(range(last + 1)):
            into = self._block_backward(
                i, into, kept[i], layout.buckets, read if i == last else None
            )
        self._embed_backward(into, tokens, places)
        return losses

    def _embed(self, tokens: Tensor, places: Tensor) -> Tensor:
        flat = [self._p[name].reshape(-1, self.model.scale.d_model) for name in _TABLES]
        shape = (*tokens.shape, self.model.scale.d_model)
        x = self._buffer("x", *shape)
        torch.index_select(flat[0], 0, tokens.flatten(), out=x.view(-1, shape[-1]))
        return x.add_(flat[1].index_select(0, places.flatten()).view(shape))

    def _embed_backward(self, into: Tensor, tokens: Tensor, places: Tensor) -> None:
        for name, index in zip(_TABLES, (tokens, places), strict=True):
            target = self._g[name]
            rows = target.shape[0] * target.shape[1]
            found = torch.ops.aten.embedding_dense_backward(into, index, rows, -1, False)
            if name == "positions":
                target.copy_(found.view_as(target))
            else:  # which the logits have written their part to
                target += found.view_as(target)

    def _block(
        self, i: int, x: Tensor, buckets: list[Bucket], read: Tensor | None
    ) -> tuple[Tensor, _Kept]:
        """As the model's own block."""
        c, m, d = x.shape
        name = f"blocks.{i}."
        attention_in, norm_1 = self._norm(f"{name}norm_1", x)
        qkv = self._linear(f"{name}attention_in", attention_in, self._buffer("wide", c, m, 3 * d))
        attended = self._buffer(f"{name}attended", c, m, d)
        heads = self._attention.forward(i, qkv, attended, buckets)
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
        kept = _Kept(norm_1, attention_in, heads, attended, norm_2, mlp_in, before_gelu, mlp_out)
        return self._add_linear(f"{name}mlp_out", x, mlp_out), kept

    def _block_backward(
        self, i: int, into: Tensor, kept: _Kept, buckets: list[Bucket], read: Tensor | None
    ) -> Tensor:
        """From the gradient of a block's output, which it overwrites, to that of its input."""
        c, m, d = into.shape
        name = f"blocks.{i}."
        wide = self._buffer("wide", c, m, 4 * d)
        self._linear_backward(f"{name}mlp_out", into, kept.mlp_out, wide)
        _gelu_backward(wide, kept.before_gelu, grad_input=wide)
        narrow = self._buffer("narrow", c, m, d)
        self._linear_backward(f"{name}mlp_in", wide, kept.mlp_in, narrow)
        into += self._norm_backward(f"{name}norm_2", narrow, kept.norm_2)
        self._linear_backward(f"{name}attention_out", into, kept.attention_out, narrow)
        if read is not None:
            m = kept.norm_1.x.shape[1]
            into, narrow = (
                self._buffer(where, c, m, d).zero_().index_copy_(1, read, of)
                for of, where in ((into, "spread.into"), (narrow, "spread.narrow"))
            )
        wide = self._buffer("wide", c, m, 3 * d)
        self._attention.backward(narrow, kept.heads, wide, buckets)
        self._linear_backward(f"{name}attention_in", wide, kept.attention_in, narrow)
        return into.add_(self._norm_backward(f"{name}norm_1", narrow, kept.norm_1))

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

    def _norm(self, name: str, x: Tensor) -> tuple[Tensor, _Normed]:
        gain, bias = self._p[f"{name}.weight"], self._p[f"{name}.bias"]
        normal, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, _EPS)
        out = self._buffer(f"{name}.out", *x.shape)
        torch.addcmul(bias[:, None], normal, gain[:, None], out=out)
        return out, _Normed(x, normal, mean, rstd)

    def _norm_backward(self, name: str, into: Tensor, kept: _Normed) -> Tensor:
        """The gradient of a norm's input; overwrites that of its output."""
        torch.sum(into, 1, out=self._g[f"{name}.bias"])
        torch.sum(kept.normal.mul_(into), 1, out=self._g[f"{name}.weight"])
        into *= self._p[f"{name}.weight"][:, None]
        of = into.shape[-1:]
        return torch.ops.aten.native_layer_norm_backward(
            into, kept.x, of, kept.mean, kept.rstd, None, None, [True, False, False]
        )[0]
