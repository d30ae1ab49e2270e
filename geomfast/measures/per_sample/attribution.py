"""Which gradients belong to which sample: one watched pass, checked by a second backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from geomfast.kernels import gradient_gram as kernel
from geomfast.kernels.gradient_gram import Factors
from geomfast.measures.checks import (
    LossFunction,
    checked_losses,
    chosen,
    count,
    refuse_coupled,
    require_finite,
)
from geomfast.measures.graph import uses_in_graph
from geomfast.measures.per_sample.watch import Use, Watch

# Scaled by powers of two, the gradients of a sample that depends on no other keep every bit, but
# kernels that add in no fixed order may round the last ones differently.
_SAME = {torch.float64: 1e-6, torch.float32: 1e-3}
_SAME_16_BITS = 3e-2


def attribute(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    params: Iterable[str] | int | None,
    check: bool,
    max_memory: int,
) -> tuple[dict[str, list[Factors]], dict[str, Tensor]]:
    """Factors and Gram matrix of every chosen parameter; see `geomfast.gradient_gram`."""
    refuse_coupled(model)
    with torch.enable_grad():
        try:
            found = Attribution(model, loss_fn, batch, *chosen(model, params), may_expand=True)
            return found.measured(check, max_memory)
        except _ExpandedInVain:
            found = Attribution(model, loss_fn, batch, *chosen(model, params), may_expand=False)
            return found.measured(check, max_memory)


class _ExpandedInVain(Exception):
    """The model cannot take a table's rows once per sample."""


class Attribution:
    """The losses of a batch, and what gradients are made of: all at once, or one by one."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        batch: Any,
        parameters: dict[str, Tensor],
        cut: tuple[str, int] | None,
        *,
        may_expand: bool,
    ):
        self.model, self.loss_fn, self.batch = model, loss_fn, batch
        self.parameters, self.cut = parameters, cut
        self.samples = count(batch)
        tensors = [x for x in tree_leaves(batch) if isinstance(x, Tensor)]
        self.watch = Watch(parameters, tensors, self.samples, may_expand)
        try:
            with self.watch:
                losses = loss_fn(model, batch)
            self.losses = checked_losses(losses, self.samples)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if self.watch.expanded:
                raise _ExpandedInVain from error
            raise
        if self.watch.doubtful:
            with torch.no_grad():
                plain = loss_fn(model, batch)
            if not torch.allclose(plain, self.losses.detach(), rtol=1e-3, atol=1e-5):
                raise _ExpandedInVain

    def measured(
        self, check: bool, max_memory: int
    ) -> tuple[dict[str, list[Factors]], dict[str, Tensor]]:
        """Factors and Gram matrix of every chosen parameter."""
        factors = self.factors(check)
        grams = {}
        for name, uses in factors.items():
            grams[name] = kernel.parameter_gram(uses, max_bytes=max_memory)
            require_finite(grams[name], name)
        return factors, grams

    def factors(self, check: bool) -> dict[str, list[Factors]]:
        """What every chosen parameter's gradients are made of."""
        uses, gradients = self._gradients_of_uses(check)
        apart = self._apart(uses)
        if check:
            apart |= self._of_other_samples(uses, gradients)
        factors: dict[str, list[Factors]] = {}
        for use, gradient in zip(uses, gradients, strict=True):
            if use.name not in apart:
                exact = torch.promote_types(self.parameters[use.name].dtype, torch.float32)
                factors.setdefault(use.name, []).append(use.rule(gradient.to(exact)))
        if apart:
            factors |= self._one_by_one(sorted(apart))
        if self.cut:
            name, kept = self.cut
            factors[name] = kernel.first_entries(factors[name], kept)
        return {name: factors[name] for name in self.parameters}

    def _gradients_of_uses(self, keep_graph: bool) -> tuple[list[Use], list[Tensor]]:
        """The uses that reach the losses, and the gradients that arrive there."""
        uses = self.watch.uses
        if not uses:
            return [], []
        edges = [use.edge for use in uses]
        gradients = torch.autograd.grad(
            self.losses.sum(), edges, allow_unused=True, retain_graph=keep_graph
        )
        reached = [pair for pair in zip(uses, gradients, strict=True) if pair[1] is not None]
        return [use for use, _ in reached], [gradient for _, gradient in reached]

    def _apart(self, uses: list[Use]) -> set[str]:
        """Names of parameters that have a use without factors, noticed or not."""
        apart = self.watch.unhandled | self.watch.changed_inputs()
        known: dict[str, list[int]] = {}
        for use in uses:
            # All uses of one transposed view are one use of the parameter to autograd.
            known.setdefault(use.name, []).append(id(use if use.view is None else use.view))
        for name, all_uses in uses_in_graph(self.losses, self.parameters).items():
            if all_uses == 0:
                raise ValueError(
                    f"parameter {name} does not reach the loss: leave it out of params"
                )
            if all_uses != len(set(known.get(name, []))):
                apart.add(name)
        return apart

    def _of_other_samples(self, uses: list[Use], gradients: list[Tensor]) -> set[str]:
        """Names of parameters with gradients that are not of the sample they arrive at.

        Sample i's loss weighs w_i here, a power of two: its own gradients are w_i times what they
        were, those that come from sample j as well are not.
        """
        if not uses:
            return set()
        different = torch.arange(self.samples) % 14
        order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(0))
        weights = 2.0 ** (different[order] % 7 - 3) * (1 - 2 * (different[order] // 7))
        weights = weights.to(self.losses)
        weighed = torch.autograd.grad(self.losses @ weights, [use.edge for use in uses])
        wrong = set()
        for use, once, again in zip(uses, gradients, weighed, strict=True):
            once, again = (x.reshape(self.samples, -1) for x in (once, again))
            difference = torch.addcmul(
                once, again, weights.reciprocal().to(again)[:, None], value=-1
            )
            if difference.norm() > _SAME.get(once.dtype, _SAME_16_BITS) * once.norm():
                wrong.add(use.name)
        return wrong

    def _one_by_one(self, names: list[str]) -> dict[str, list[Factors]]:
        """Every sample's gradients of these parameters, from a batch of its own."""
        chosen = [self.parameters[name] for name in names]
        rows: list[tuple[Tensor, ...]] = []
        for i in range(self.samples):
            alone = tree_map(
                lambda x, i=i: x[i : i + 1] if isinstance(x, Tensor) else x, self.batch
            )
            loss = checked_losses(self.loss_fn(self.model, alone), 1)[0]
            together = self.losses[i]
            if not torch.isclose(loss, together, rtol=1e-3, atol=1e-5, equal_nan=True):
                raise ValueError(
                    f"the loss of sample {i} depends on the other samples: {together.item():.6g} "
                    f"in the batch, {loss.item():.6g} alone"
                )
            rows.append(torch.autograd.grad(loss, chosen))
        stacked = zip(*rows, strict=True)
        return {
            name: [kernel.whole(torch.stack(gradients))]
            for name, gradients in zip(names, stacked, strict=True)
        }
