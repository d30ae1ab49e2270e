"""Losses and gradients of geomfast's own GPT at chains' weights, by its hand-written passes.

Of losses of answers alone, which say what logits they read and are differentiated by them. What the
model does between weights and logits is `geomfast.testbed.models.stacked_gradients`, as in
training, which takes half of the time of autograd at the sizes that chains are run of on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.batches import count, mapped
from geomfast.estimators.behaviour import AnswerLoss
from geomfast.estimators.calls import Losses
from geomfast.estimators.checks import LossFunction, checked_losses
from geomfast.estimators.curvature.gpt_loss import NotPlain
from geomfast.estimators.entries import entries_of
from geomfast.estimators.sampling.gradients import ChainGradients
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.stacked import StackedGPT
from geomfast.testbed.models.stacked_gradients import StackedGradients
from geomfast.testbed.models.stacked_layout import Buffers

#: How far two ways may differ by rounding.
_ROUNDING = 1e-4


class GptGradients:
    """What `ChainGradients` does, for a GPT and a loss of answers.

    Args:
        model, loss_fn, parameters, weights, gradients: as of `ChainGradients`.

    Raises:
        NotPlain: another model, loss, device or type, or not all of its parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        parameters: Mapping[str, Tensor],
        weights: Tensor,
        gradients: Tensor,
    ):
        loss = loss_fn.loss_fn if isinstance(loss_fn, Losses) else loss_fn
        if not isinstance(loss, AnswerLoss):
            raise NotPlain("not a loss of answers")
        on_cpu = weights.device.type == "cpu" and weights.dtype == torch.float32
        if type(model) is not GPT or not on_cpu or not _plain(model):
            raise NotPlain("not geomfast's GPT in float32 on the CPU")
        if entries_of(parameters) or dict(model.named_parameters()).keys() != parameters.keys():
            raise NotPlain("not all parameters")
        self._loss, self.chains, self.gradients = loss, len(weights), gradients
        self._members = StackedGPT.of_rows(model.scale, weights, list(parameters))
        self._buffers = Buffers()
        self._hand = StackedGradients(self._members, gradients, self._buffers)
        self._scratch: StackedGradients | None = None
        self._more = torch.empty(0, device="cpu")

    def add(self, batch: Any, samples: int, shared: bool, share: float, first: bool) -> Tensor:
        """As `ChainGradients.add`."""
        every = [
            batch if shared else mapped(lambda x, c=c: x[c], batch) for c in range(self.chains)
        ]
        tokens = torch.stack([self._loss.inputs(one) for one in every])
        at = torch.stack([self._loss.read(one) for one in every]).any(0).nonzero().flatten()
        n, end = tokens.shape[1], int(at.max()) + 1
        read = (torch.arange(n, device="cpu")[:, None] * end + at).flatten()
        hand = self._hand if first else self._second()
        logits = hand.forward([tokens[:, :, :end].contiguous()], [(end,) * n], None, read)
        full = logits.new_zeros(*tokens.shape, logits.shape[-1])
        full[:, :, at] = logits.view(self.chains, n, len(at), -1)
        losses, into = [], []
        for given, leaf in zip(every, full, strict=True):
            with torch.enable_grad():
                found = self._loss.of_logits(leaf.requires_grad_(), given)
                (gradient,) = torch.autograd.grad(found.sum() * (share / samples), leaf)
            losses.append(found.detach())
            into.append(gradient[:, at].flatten(0, 1))
        hand.backward(torch.stack(into))
        if not first:
            self.gradients += self._more
        checked_losses(losses[0], samples, False)
        return torch.stack(losses)

    def _second(self) -> StackedGradients:
        """Passes whose gradients are added to others."""
        if self._scratch is None:
            self._more = torch.empty_like(self.gradients)
            self._scratch = StackedGradients(self._members, self._more, self._buffers)
        return self._scratch


def agrees(
    model: nn.Module, loss_fn: LossFunction, parameters: Mapping[str, Tensor], few: Any
) -> bool:
    """Whether hand-written passes give the gradients of a model and a loss, by a few samples.

    Args:
        model, loss_fn, parameters: as of `ChainGradients`.
        few: a batch.
    """
    loss = loss_fn.loss_fn if isinstance(loss_fn, Losses) else loss_fn
    if type(model) is not GPT or not isinstance(loss, AnswerLoss):
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


def _plain(model: GPT) -> bool:
    """Whether a GPT computes what its class and its scale say."""
    table = model.tokens
    usual = table.padding_idx is None and table.max_norm is None and not table.scale_grad_by_freq
    # Fewer where some are shared, others where a parametrization makes them.
    own = sum(p.numel() for p in model.parameters()) == model.scale.parameters
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    own = own and all(norm.eps == 1e-5 for norm in norms)
    return (
        usual
        and own
        and not any(
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            or "forward" in vars(module)
            for module in model.modules()
        )
    )
