"""Products of a geomfast GPT's Hessian with vectors, by a hand-written R-operator.

Pearlmutter (1994), "Fast exact multiplication by the Hessian". Autograd is left with the loss as a
function of the logits; where that is a cross-entropy, with nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from geomfast.estimators.checks import LossFunction
from geomfast.estimators.curvature.gpt_loss import LossPoint, NotPlain
from geomfast.estimators.curvature.gpt_point import PARTS, Body, ChunkPoint
from geomfast.estimators.curvature.gpt_tangent import Directions
from geomfast.kernels.tangents import operations
from geomfast.testbed.models.gpt import GPT, Block

__all__ = ["GptProducts", "NotPlain"]

#: Rows, samples times positions, at a time. A processor keeps so many in its caches.
ROWS_ON_CPU = 1024
#: Rows times probes: a GPU wants many, and has memory for so many beside the point itself.
ROWS_ON_GPU = 1 << 17


class _Chunk(NamedTuple):
    point: ChunkPoint
    p: Tensor | None  # (m, V)
    weight: Tensor | None  # (m, 1)


class GptProducts:
    """Products of the Hessian of the mean loss over data.

    Activations and adjoints are computed once and kept, about 32 d + 3 heads T numbers for every
    token and block (`nbytes`): later changes of the model's parameters do not matter.

    Args:
        model: its class, blocks and layers must be those that geomfast makes, and its positions
            learned.
        loss_fn: `loss_fn(model, batch) -> (N,)`. It is called once for every batch, must itself
            call the model once, on token ids (N, T) alone, and take parameters in no other way.
        batches: what loss_fn takes; batches count by their samples.
        parameters: by name, the model's own; others are held fixed.

    Attributes:
        dimension: P, entries of the parameters.

    Raises:
        NotPlain: the model or the loss is of another kind.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batches: Sequence[Any],
        parameters: dict[str, Tensor],
    ):
        plain = _checked(model, parameters)
        self._sizes = {name: p.numel() for name, p in parameters.items()}
        self.dimension = sum(self._sizes.values())
        ours = {id(p) for p in parameters.values()}
        self._losses = [LossPoint(plain, loss_fn, batch, ours) for batch in batches]
        self._samples = sum(loss.samples for loss in self._losses)
        with torch.no_grad():
            self._body = Body(plain)
            self._chunks = [self._points(loss) for loss in self._losses]
        self._ops = operations(self._body.at["positions"])

    @property
    def nbytes(self) -> int:
        """Memory of the activations and adjoints."""
        return sum(chunk.point.nbytes for chunks in self._chunks for chunk in chunks)

    @torch.no_grad()
    def gradient(self) -> Tensor:
        """(P,), of the mean loss."""
        by_name = self._body.gradient()
        return torch.cat([by_name[name].flatten() for name in self._sizes])

    @torch.no_grad()
    def product(self, v: Tensor) -> Tensor:
        """(P,) or (k, P) -> the same shape, of the model's type."""
        like = self._body.at["positions"]
        rows = v.detach().reshape(-1, self.dimension).to(like.dtype)
        largest = max((len(c.point.logits_bar) for cs in self._chunks for c in cs), default=1)
        together = max(1, ROWS_ON_GPU // max(largest, 1)) if like.is_cuda else 1
        found = [self._product(part) for part in rows.split(together)]
        return torch.cat(found).view(v.shape)

    def _product(self, v: Tensor) -> Tensor:
        """(k, P) -> (k, P)."""
        given = dict(zip(self._sizes, v.split(list(self._sizes.values()), 1), strict=True))
        dot = {
            name: given[name].unflatten(1, p.shape)
            if name in given
            else p.new_zeros(len(v), *p.shape)
            for name, p in self._body.at.items()
        }
        directions = Directions(self._body, self._ops, dot)
        for loss, chunks in zip(self._losses, self._chunks, strict=True):
            if loss.weight is None:
                self._through_autograd(directions, loss, chunks)
                continue
            for point, p, weight in chunks:
                logits_dot, tangent = directions.forward(point)
                bar_dot = self._ops.softmax_hessian_product(p, weight, logits_dot)
                directions.backward(point, tangent, bar_dot)
        out = directions.products()
        return torch.cat([out[name].flatten(1) for name in self._sizes], 1)

    def _through_autograd(
        self, directions: Directions, loss: LossPoint, chunks: list[_Chunk]
    ) -> None:
        """The samples of a batch together, whose losses may depend on each other's logits."""
        if not chunks:
            return
        there = [directions.forward(chunk.point) for chunk in chunks]
        n, t, vocabulary = loss.gradient.shape
        logits_dot = torch.cat([dot for dot, _ in there], 1).view(-1, n, t, vocabulary)
        bar_dot = (loss.hessian_product(logits_dot) / self._samples).flatten(1, 2)
        parts = bar_dot.split([len(chunk.point.logits_bar) for chunk in chunks], 1)
        for chunk, (_, tangent), part in zip(chunks, there, parts, strict=True):
            directions.backward(chunk.point, tangent, part)

    def _points(self, loss: LossPoint) -> list[_Chunk]:
        n, length = loss.tokens.shape
        if length == 0 or n == 0:  # no logits reach the loss
            return []
        rows = ROWS_ON_GPU if loss.tokens.is_cuda else ROWS_ON_CPU
        samples = max(1, rows // length)
        chunks = []
        for tokens, bar, p, weight in zip(
            *(
                [None] * n if x is None else x.split(samples)
                for x in (loss.tokens, loss.gradient, loss.p, loss.weight)
            ),
            strict=False,
        ):
            bar = (bar / self._samples).flatten(0, 1)
            point = self._body.chunk(tokens, loss.first, bar)
            p, weight = (None if x is None else x.flatten(0, 1) for x in (p, weight))
            chunks.append(_Chunk(point, p, None if weight is None else weight / self._samples))
        return chunks


def _checked(model: nn.Module, parameters: dict[str, Tensor]) -> GPT:
    """The model, if it computes what a GPT of geomfast computes."""
    if type(model) is not GPT:
        raise NotPlain(f"the model is a {type(model).__name__}, not geomfast's GPT")
    for name, module in model.named_modules():
        if type(module) not in (GPT, Block, nn.ModuleList, nn.Linear, nn.LayerNorm, nn.Embedding):
            raise NotPlain(f"{name} is a {type(module).__name__}")
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            raise NotPlain(f"hooks change what {name or 'the model'} computes")
    if model.scale.positions != "learned":
        raise NotPlain(f"its positions are {model.scale.positions}, not learned")
    own = dict(model.named_parameters())
    expected = {"tokens.weight", "positions", "norm.weight", "norm.bias"}
    parts = (*PARTS, "norm_1", "norm_2")
    for i in range(len(model.blocks)):
        expected |= {f"blocks.{i}.{part}.{of}" for part in parts for of in ("weight", "bias")}
    if own.keys() != expected:
        raise NotPlain(f"its parameters are not a GPT's: {sorted(own.keys() ^ expected)}")
    for name, p in parameters.items():
        if own.get(name) is not p or not p.requires_grad:
            raise NotPlain(f"{name} is not a trainable parameter of the model")
    kinds = {(p.dtype, p.device) for p in own.values()}
    if len(kinds) != 1 or own["positions"].dtype not in (torch.float32, torch.float64):
        raise NotPlain("the parameters are not all float32 or all float64 on one device")
    return model
