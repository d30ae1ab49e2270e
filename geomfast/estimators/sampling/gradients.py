"""Losses and gradients of a model at other weights than its own, of one or of many chains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from geomfast.estimators.batches import mapped, tensors_of, with_tensors
from geomfast.estimators.checks import LossFunction, checked_losses
from geomfast.estimators.entries import entries_of


class _OneProgram(TorchFunctionMode):
    """What vmap computes wrongly, or slowly, in words that it does not.

    An embedding's padding row gets no gradient; under vmap that holds for the first chain alone.
    Attention without a mask of the model's own leaves no row without a position to look at, which
    its general formula looks for in several passes.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        plain = len(args) == 3 and kwargs.keys() <= {"is_causal", "scale"}
        if func is F.scaled_dot_product_attention and plain:
            return _attention(*args, **kwargs)
        if func is not F.embedding:
            return func(*args, **kwargs)
        padding = kwargs.get("padding_idx", args[2] if len(args) > 2 else None)
        if padding is None:
            return func(*args, **kwargs)
        indices, table = args[:2] if len(args) > 1 else (args[0], kwargs["weight"])
        rows = F.embedding(indices, table)
        return torch.where((indices == padding % len(table))[..., None], rows.detach(), rows)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False, scale: float | None = None
) -> Tensor:
    """(..., T, d), (..., S, d), (..., S, e) -> (..., T, e), as torch's formula has it."""
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.mT
    if is_causal:
        # Added: filling in would cost another pass forward and one backward.
        shape = scores.shape[-2:]
        scores = scores + torch.full(shape, -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    return scores.softmax(-1) @ v


@contextlib.contextmanager
def _batchable() -> Iterator[None]:
    """Inside, a model computes what vmap can run, and differentiate, as one program."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # Under vmap the fused kernels loop over chains (PyTorch issue 176265).
        with sdpa_kernel(SDPBackend.MATH), _OneProgram():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class LossModule(nn.Module):
    """The losses of a model as a module, whose parameters can be replaced for a call."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction):
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch: Any) -> Tensor:
        return self.loss_fn(self.model, batch)


class ChainLosses:
    """Losses of a model at rows of a flat buffer, which the model is called with.

    Args:
        model, loss_fn: as everywhere in geomfast; loss_fn may return more than one value a sample.
        parameters: by name, those that the buffer holds, in its order; of a `Selection` the
            entries that it selects, while the others stay what they are.
        weights: (C, P), read at every call.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        parameters: Mapping[str, Tensor],
        weights: Tensor,
    ):
        self.module = LossModule(model, loss_fn)
        self._entries = {f"model.{name}": at for name, at in entries_of(parameters).items()}
        self._others = {
            name: parameters[name.removeprefix("model.")].detach() for name in self._entries
        }
        self.chains = len(weights)
        self._parameters = parameters
        self._names = [f"model.{name}" for name in parameters]
        self._leaves = [leaf.requires_grad_() for leaf in self._parts(weights)]

    def _parts(self, buffer: Tensor) -> list[Tensor]:
        """Views of the buffer, in the parameters' shapes; flat where only entries are selected."""
        entries = entries_of(self._parameters)
        shapes = [
            torch.Size([len(entries[name])]) if name in entries else p.shape
            for name, p in self._parameters.items()
        ]
        # One chain is called as the model is: not through vmap, which costs.
        lead = buffer.shape[:1] if self.chains > 1 else ()
        split = buffer.detach().split([shape.numel() for shape in shapes], 1)
        return [x.view((*lead, *shape)) for x, shape in zip(split, shapes, strict=True)]

    def values(self, batch: Any, shared: bool) -> Any:
        """What loss_fn returns, unchecked: (C, m) or (C, m, ...) where those are tensors.

        Args:
            batch: of m samples; every chain's own, tensors (C, m, ...), or one for all, (m, ...).
            shared: whether it is one for all.
        """
        leaves = dict(zip(self._names, self._leaves, strict=True))
        if self.chains == 1:
            if not shared:
                batch = mapped(lambda x: x[0], batch)
            losses = functional_call(self.module, self._whole(leaves), (batch,))
            return losses[None] if isinstance(losses, Tensor) else losses
        # vmap knows no mappings but dictionaries, and no strings.
        call = vmap(
            lambda leaves, tensors: functional_call(
                self.module, self._whole(leaves), (with_tensors(batch, tensors),)
            ),
            in_dims=(0, None if shared else 0),
        )
        with _batchable():
            return call(leaves, tensors_of(batch))

    def _whole(self, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the model is called with: one chain's leaves, filled up where they are entries."""
        found = dict(leaves)
        for name, at in self._entries.items():
            other = self._others[name]
            found[name] = other.reshape(-1).index_copy(0, at, leaves[name]).view(other.shape)
        return found

    def losses(self, batch: Any, samples: int, shared: bool) -> Tensor:
        """Differentiable losses (C, m) of a batch of m samples; the others as in `values`."""
        losses = self.values(batch, shared)
        checked_losses(losses[0] if isinstance(losses, Tensor) else losses, samples, False)
        return losses


class ChainGradients(ChainLosses):
    """The same, and gradients of their mean.

    Args:
        model, loss_fn, parameters, weights: as above.
        gradients: (C, P), written by every call of `add`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        parameters: Mapping[str, Tensor],
        weights: Tensor,
        gradients: Tensor,
    ):
        super().__init__(model, loss_fn, parameters, weights)
        self.gradients = gradients
        self._targets = self._parts(gradients)

    def add(self, batch: Any, samples: int, shared: bool, share: float, first: bool) -> Tensor:
        """Writes, or where not `first` adds, the gradient of share * mean loss; (C, m) losses."""
        with torch.enable_grad():
            losses = self.losses(batch, samples, shared)
            total = losses.sum() * (share / samples)
        # Samples that do not use a parameter leave its gradient as it is.
        found: Sequence[Tensor | None] = [None] * len(self._leaves)
        if total.requires_grad:
            found = torch.autograd.grad(total, self._leaves, allow_unused=True)
        for target, gradient in zip(self._targets, found, strict=True):
            if gradient is None:
                if first:
                    target.zero_()
            elif first:
                target.copy_(gradient)
            else:
                target += gradient
        return losses.detach()
