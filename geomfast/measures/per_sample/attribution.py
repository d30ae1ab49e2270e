"""Which gradients belong to which sample: one watched pass, checked by a random combination."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from geomfast.kernels import gradient_gram as kernel
from geomfast.kernels.gradient_gram import Factors
from geomfast.measures.per_sample.checks import (
    checked_losses,
    chosen,
    count,
    refuse_coupled,
    require_finite,
)
from geomfast.measures.per_sample.watch import Watch

LossFunction = Callable[[nn.Module, Any], Tensor]

# Rounding in a float32 forward and backward pass stays well below this share of the root of a
# parameter's squared gradients; one attributed to the wrong sample is of the order of all of it.
_PROBE_TOLERANCE = 1e-3


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
            return _measured(found, check, max_memory)
        except _ExpandedInVain:
            found = Attribution(model, loss_fn, batch, *chosen(model, params), may_expand=False)
            return _measured(found, check, max_memory)


class _ExpandedInVain(Exception):
    """The model cannot take a table's rows once per sample."""


class Attribution:
    """The losses of a batch, and the slower ways to gradients: all at once, or one by one."""

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

    def one_by_one(self, names: list[str]) -> dict[str, list[Factors]]:
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

    def _kept(self, name: str) -> int | None:
        return self.cut[1] if self.cut and self.cut[0] == name else None

    def truncated(self, name: str, uses: list[Factors]) -> list[Factors]:
        """Only the entries of this parameter that count."""
        kept = self._kept(name)
        return uses if kept is None else kernel.first_entries(uses, kept)

    def probe(self, factors: dict[str, list[Factors]], grams: dict[str, Tensor]) -> None:
        """Replaces what a random combination of the losses shows to be attributed wrongly.

        A gradient that belongs to another sample, or to several, comes with another weight here
        than in the gradient of the combination.
        """
        weights = torch.randn(self.samples, generator=torch.Generator().manual_seed(0))
        losses = checked_losses(self.loss_fn(self.model, self.batch), self.samples)
        if self.watch.expanded and not torch.allclose(losses, self.losses, rtol=1e-3, atol=1e-5):
            raise _ExpandedInVain
        weights = weights.to(losses)
        gradients = torch.autograd.grad(losses @ weights, list(self.parameters.values()))
        wrong = []
        for (name, uses), gradient in zip(factors.items(), gradients, strict=True):
            expected = gradient.flatten()[: self._kept(name)]
            difference = kernel.combination(uses, weights).flatten() - expected
            size = grams[name].trace().sqrt()
            if difference.double().norm() > _PROBE_TOLERANCE * size:
                wrong.append(name)
        if wrong:
            again = self.one_by_one(wrong)
            factors |= {name: self.truncated(name, again[name]) for name in wrong}
            grams |= {name: kernel.parameter_gram(factors[name]) for name in wrong}


def _measured(
    attribution: Attribution, check: bool, max_memory: int
) -> tuple[dict[str, list[Factors]], dict[str, Tensor]]:
    """Factors and Gram matrix of every chosen parameter."""
    factors = _factors(attribution)
    grams = {}
    for name, uses in factors.items():
        grams[name] = kernel.parameter_gram(uses, max_bytes=max_memory)
        require_finite(grams[name], name)
    if check:
        attribution.probe(factors, grams)
    return factors, grams


def _factors(attribution: Attribution) -> dict[str, list[Factors]]:
    """What every chosen parameter's gradients are made of."""
    parameters = attribution.parameters
    watch = attribution.watch
    apart = watch.unhandled | watch.changed_inputs()
    uses = [use for use in watch.uses if use.name not in apart]
    seen = {use.name for use in uses} | apart
    for name in parameters:
        if name not in seen:
            raise ValueError(f"parameter {name} does not reach the loss: leave it out of params")
    gradients: tuple[Tensor | None, ...] = ()
    if uses:
        edges = [use.edge for use in uses]
        gradients = torch.autograd.grad(attribution.losses.sum(), edges, allow_unused=True)
    factors: dict[str, list[Factors]] = {}
    for use, gradient in zip(uses, gradients, strict=True):
        if gradient is not None:
            exact = torch.promote_types(parameters[use.name].dtype, torch.float32)
            factors.setdefault(use.name, []).append(use.rule(gradient.to(exact)))
    for use in uses:
        if use.name not in factors:
            raise ValueError(
                f"parameter {use.name} does not reach the loss: leave it out of params"
            )
    if apart:
        factors |= attribution.one_by_one(sorted(apart))
    return {name: attribution.truncated(name, factors[name]) for name in parameters}
