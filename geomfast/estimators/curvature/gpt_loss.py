"""A loss as a function of a GPT's logits alone: its gradient there, and products of its Hessian."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from geomfast.estimators.checks import LossFunction
from geomfast.estimators.graph import nodes
from geomfast.testbed.models.gpt import GPT


class NotPlain(ValueError):
    """The model or the loss is not one that the hand-written products are made for."""


class LossPoint:
    """The sum of a batch's losses around the model's logits z.

    Args:
        model, loss_fn, batch: as everywhere in geomfast.
        ours: ids of parameters that the loss must reach through the logits only.

    Attributes:
        samples: N.
        tokens: (N, T) that the loss gave the model, less the positions after the last that counts.
        first: the first position that counts: t = T - first of them do.
        gradient: (N, t, V) by the logits that count.
        weight: (N, t, 1) where the loss is, up to terms linear in the logits, so much times the
            log-sum-exp of each position's logits, as every cross-entropy is; None if it is not.
        p: (N, t, V) probabilities of the tokens; None without weight.
    """

    def __init__(self, model: GPT, loss_fn: LossFunction, batch: Any, ours: set[int]):
        with torch.enable_grad(), _logits_as_leaf(model) as calls:
            losses = loss_fn(model, batch)
            if len(calls) != 1:
                raise NotPlain(f"the loss calls the model {len(calls)} times, not once")
            ((tokens, z),) = calls
            if not isinstance(losses, Tensor) or losses.dim() != 1 or not losses.requires_grad:
                raise NotPlain("the loss is not one differentiable value per sample")
            if any(id(getattr(node, "variable", None)) in ours for node in nodes(losses)):
                raise NotPlain("the loss takes parameters beside the logits")
            (g,) = torch.autograd.grad(
                losses.sum(), z, create_graph=True, allow_unused=True, materialize_grads=True
            )
        self.samples = len(losses)
        random = torch.randn(
            2, *z.shape, generator=torch.Generator().manual_seed(0), device="cpu"
        ).to(z)
        products = torch.stack([_product(g, z, r) for r in random])
        # A row of the Hessian that is not zero gives zero with a random vector with chance zero.
        counts = (g.detach() != 0) | (products[0] != 0)
        used = counts.any(-1).any(0).nonzero()[:, 0].tolist()
        self.first, end = (used[0], used[-1] + 1) if used else (0, 0)
        self._counting = slice(self.first, end)
        self.tokens = tokens[:, :end]
        self.gradient = g.detach()[:, self._counting]
        p = z.detach()[:, self._counting].softmax(-1)
        self.weight = _weight(p, random[:, :, self._counting], products[:, :, self._counting])
        self.p = None if self.weight is None else p
        # The loss's graph is only kept where it is needed.
        self._graph = (g, z) if self.weight is None else None

    def hessian_product(self, z_dot: Tensor) -> Tensor:
        """The Hessian by the logits that count times (k, N, t, V), where there is no weight."""
        assert self._graph is not None
        g, z = self._graph
        full = z_dot.new_zeros(z.shape)
        products = []
        for one in z_dot:
            full[:, self._counting] = one
            products.append(_product(g, z, full)[:, self._counting])
        return torch.stack(products)


def _product(g: Tensor, z: Tensor, z_dot: Tensor) -> Tensor:
    """Derivative of the gradient g by z, times z_dot."""
    if not g.requires_grad:  # a loss linear in the logits
        return torch.zeros_like(z)
    (product,) = torch.autograd.grad(
        g, z, z_dot, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return product


def _weight(p: Tensor, random: Tensor, products: Tensor) -> Tensor | None:
    """Weights (N, t, 1) that explain the first product, if they explain the second too.

    Args:
        p: (N, t, V) probabilities.
        random: (2, N, t, V) vectors.
        products: (2, N, t, V), those of the Hessian with them.
    """
    units = p * (random - (p * random).sum(-1, keepdim=True))
    squares = units[0].square().sum(-1, keepdim=True)
    weight = (units[0] * products[0]).sum(-1, keepdim=True)
    weight = weight / squares.clamp_min(torch.finfo(p.dtype).tiny)
    # What differs in one random direction by rounding alone does so in all.
    error = (weight * units[1] - products[1]).norm()
    return weight if error <= 64 * torch.finfo(p.dtype).eps * products[1].norm() else None


@contextmanager
def _logits_as_leaf(model: GPT):
    """Inside, the model's output is where graphs begin; gives the (tokens, logits) of its calls."""
    calls: list[tuple[Tensor, Tensor]] = []

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        plain = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and args[0].dim() == 2
        if not plain or args[0].is_floating_point():
            raise NotPlain("the loss calls the model with something else than token ids (N, T)")
        with torch.no_grad():
            logits = GPT.forward(model, args[0])
        calls.append((args[0], logits.requires_grad_()))
        return logits.clone()  # which, unlike a leaf, may be changed in place

    model.forward = forward
    try:
        yield calls
    finally:
        del model.forward
