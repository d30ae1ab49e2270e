"""Losses and gradients of geomfast's own GPT at chains' weights, by its hand-written passes.

The loss is the user's: it is given logits, and is differentiated by them alone. What the model does
between weights and logits is `geomfast.testbed.models.stacked_gradients`, as in training, which
takes half of the time of autograd at the sizes that chains are run of on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.batches import count, mapped
from geomfast.estimators.checks import LossFunction, checked_losses
from geomfast.estimators.curvature.gpt_loss import NotPlain
from geomfast.estimators.entries import entries_of
from geomfast.estimators.graph import nodes
from geomfast.estimators.sampling.gradients import ChainGradients
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.stacked import StackedGPT
from geomfast.testbed.models.stacked_gradients import StackedGradients
from geomfast.testbed.models.stacked_layout import Buffers

#: How far two ways may differ by rounding.
_ROUNDING = 1e-4


class GptGradients:
    """What `ChainGradients` does, for a GPT.

    Logits that no loss has read so far are NaN: a loss that turns out to read one is NaN as well,
    and all of them are computed from then on.

    Args:
        model, loss_fn, parameters, weights, gradients: as of `ChainGradients`.

    Raises:
        NotPlain: another model, device or type, or not all of its parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        parameters: Mapping[str, Tensor],
        weights: Tensor,
        gradients: Tensor,
    ):
        every = dict(model.named_parameters())
        on_cpu = weights.device.type == "cpu" and weights.dtype == torch.float32
        if type(model) is not GPT or _hooked(model) or not on_cpu:
            raise NotPlain("not geomfast's GPT in float32 on the CPU")
        if entries_of(parameters) or every.keys() != parameters.keys():
            raise NotPlain("not all parameters")
        self.model, self.loss_fn = model, loss_fn
        self._own = {id(p) for p in every.values()}
        self.chains, self.gradients = len(weights), gradients
        buffers = Buffers()
        members = StackedGPT.of_rows(model.scale, weights, list(parameters))
        self._hand = StackedGradients(members, gradients, buffers)
        self._members, self._buffers = members, buffers
        self._scratch: StackedGradients | None = None
        self._more = torch.empty(0, device="cpu")
        # (T,) which positions losses have read so far, by length of the rows.
        self._read: dict[int, Tensor] = {}

    def add(self, batch: Any, samples: int, shared: bool, share: float, first: bool) -> Tensor:
        """As `ChainGradients.add`."""
        every = [
            batch if shared else mapped(lambda x, c=c: x[c], batch) for c in range(self.chains)
        ]
        tokens = torch.stack([self._tokens(one) for one in (every[:1] if shared else every)])
        if shared:
            tokens = tokens.expand(self.chains, -1, -1)
        hand = self._hand if first else self._second()
        n, t = tokens.shape[1:]
        known = self._read.get(t)
        passed = None
        if known is not None:
            passed = self._of_read(hand, every, tokens, known, share / samples)
        if passed is None:
            whole = torch.ones(t, dtype=torch.bool, device="cpu")
            passed = self._passed(hand, every, tokens, whole, share / samples)
            used = (passed[1].view(self.chains, n, t, -1) != 0).any(-1).any(0).any(0)
            self._read[t] = used if known is None else used | known
        losses, into = passed
        hand.backward(into)
        if not first:
            self.gradients += self._more
        checked_losses(losses[0], samples, False)
        return losses

    def _second(self) -> StackedGradients:
        """Passes whose gradients are added to others."""
        if self._scratch is None:
            self._more = torch.empty_like(self.gradients)
            self._scratch = StackedGradients(self._members, self._more, self._buffers)
        return self._scratch

    def _of_read(
        self,
        hand: StackedGradients,
        every: list[Any],
        tokens: Tensor,
        known: Tensor,
        share: float,
    ) -> tuple[Tensor, Tensor] | None:
        """As `_passed`, of positions read before; None where the loss reads another one now."""
        try:
            found = self._passed(hand, every, tokens, known, share)
        except Exception:  # of a loss that refuses NaN; what else it raises it raises again
            return None
        return None if found[0].isnan().any() else found

    def _passed(
        self,
        hand: StackedGradients,
        every: list[Any],
        tokens: Tensor,
        used: Tensor,
        share: float,
    ) -> tuple[Tensor, Tensor]:
        """Losses (C, m), and the gradient (C, A, V) of their sum by the logits at some positions.

        Those of others are NaN.
        """
        c, n, t = tokens.shape
        end = int(used.nonzero().max()) + 1 if used.any() else 1
        at = (
            used[:end].nonzero().flatten()
            if used.any()
            else torch.zeros(1, dtype=torch.int64, device="cpu")
        )
        read = (torch.arange(n, device="cpu")[:, None] * end + at).flatten()
        logits = hand.forward([tokens[:, :, :end].contiguous()], [(end,) * n], None, read)
        full = logits.new_full((c, n, t, logits.shape[-1]), torch.nan)
        full[:, :, at] = logits.view(c, n, len(at), -1)
        losses, into = [], []
        for given, leaf in zip(every, full, strict=True):
            leaf = leaf.requires_grad_()
            with torch.enable_grad(), _giving(self.model, leaf):
                found = self.loss_fn(self.model, given)
                total = found.sum() * share
            if any(id(getattr(node, "variable", None)) in self._own for node in nodes(total)):
                raise NotPlain("the loss takes parameters beside the logits")
            (gradient,) = torch.autograd.grad(total, leaf, materialize_grads=True)
            losses.append(found.detach())
            into.append(gradient[:, at].flatten(0, 1))
        return torch.stack(losses), torch.stack(into)

    def _tokens(self, batch: Any) -> Tensor:
        """(N, T) that the loss gives the model."""
        calls: list[Tensor] = []

        def forward(tokens: Tensor) -> Tensor:
            calls.append(tokens)
            return torch.zeros(*tokens.shape, self.model.scale.vocabulary, device="cpu")

        with torch.no_grad(), _replaced(self.model, forward):
            self.loss_fn(self.model, batch)
        if len(calls) != 1 or calls[0].dim() != 2:
            raise NotPlain("the loss does not call the model once with token ids (N, T)")
        return calls[0]


def agrees(
    model: nn.Module, loss_fn: LossFunction, parameters: Mapping[str, Tensor], few: Any
) -> bool:
    """Whether hand-written passes give the gradients of a model and a loss, by a few samples.

    Args:
        model, loss_fn, parameters: as of `ChainGradients`.
        few: a batch.
    """
    if type(model) is not GPT:
        return False
    weights = torch.cat([x.detach().flatten() for x in parameters.values()])[None]
    samples = count(few, least=1)
    found = []
    for make in (GptGradients, ChainGradients):
        gradients = torch.empty_like(weights)
        try:
            losses = make(model, loss_fn, parameters, weights, gradients).add(
                few, samples, True, 1.0, True
            )
        except NotPlain:
            return False
        found.append((losses, gradients))
    (losses, gradients), (plain, expected) = found
    close = (gradients - expected).norm() <= _ROUNDING * expected.norm()
    return bool(close) and torch.allclose(losses, plain, rtol=_ROUNDING, atol=_ROUNDING)


def _hooked(model: nn.Module) -> bool:
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in model.modules()
    )


@contextmanager
def _replaced(model: nn.Module, forward: Any) -> Iterator[None]:
    model.forward = forward
    try:
        yield
    finally:
        del model.forward


@contextmanager
def _giving(model: nn.Module, logits: Tensor) -> Iterator[None]:
    """Inside, the model's output is these logits."""
    with _replaced(model, lambda tokens: logits.clone()):
        yield
