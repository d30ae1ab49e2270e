"""What a model, its loss and a batch must be for gradients of single samples to make sense."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

LossFunction = Callable[[nn.Module, Any], Tensor]


def chosen(
    model: nn.Module, params: Iterable[str] | int | None
) -> tuple[dict[str, Tensor], tuple[str, int] | None]:
    """Parameters by name, and the one of which only so many entries count."""
    trainable: dict[str, Tensor] = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    if not trainable:
        raise ValueError("no parameter of the model requires gradients")
    if params is None:
        return trainable, None
    if isinstance(params, int):
        if params < 1:
            raise ValueError(f"params must be 1 or more entries, not {params}")
        chosen, left = {}, params
        for name, parameter in trainable.items():
            chosen[name] = parameter
            left -= parameter.numel()
            if left <= 0:
                return chosen, (name, parameter.numel() + left)
        return chosen, None
    patterns = [params] if isinstance(params, str) else list(params)
    for pattern in patterns:
        if not fnmatch.filter(trainable, pattern):
            raise ValueError(f"params: {pattern!r} matches none of {list(trainable)}")
    return {
        name: parameter
        for name, parameter in trainable.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }, None


def batches_of(data: Any) -> list[Any]:
    """The batches of `data`: itself if it is a tensor, a tuple or a mapping, else its items.

    Raises:
        ValueError: there is none.
    """
    if isinstance(data, (Tensor, tuple, Mapping)):
        return [data]
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed from the global generator
        batches = list(data)
    if not batches:
        raise ValueError("data holds no batch")
    return batches


def count(batch: Any, least: int = 2) -> int:
    """N, the samples of a batch."""
    tensors = [x for x in tree_leaves(batch) if isinstance(x, Tensor)]
    if not tensors:
        raise ValueError("batch holds no tensor")
    sizes = {x.shape[0] if x.dim() else 0 for x in tensors}
    if len(sizes) != 1:
        shapes = [tuple(x.shape) for x in tensors]
        raise ValueError(f"tensors of batch must share their first dimension N, not {shapes}")
    (samples,) = sizes
    if samples < least:
        raise ValueError(f"batch has N = {samples} samples; N >= {least} is needed")
    return samples


def checked_losses(losses: Any, samples: int, differentiable: bool = True) -> Tensor:
    if not isinstance(losses, Tensor) or not losses.is_floating_point():
        kind = losses.dtype if isinstance(losses, Tensor) else type(losses).__name__
        raise TypeError(f"loss_fn must return a floating-point tensor, not {kind}")
    if losses.shape != (samples,):
        hint = "; it must not be reduced over samples" if losses.dim() == 0 else ""
        raise ValueError(f"loss_fn must return shape ({samples},), not {tuple(losses.shape)}{hint}")
    if differentiable and not losses.requires_grad:
        raise ValueError("the losses do not depend on any parameter that requires gradients")
    return losses


def require_equal_losses(alone: dict[int, Tensor], together: Tensor) -> None:
    """Raises where a loss is another one without the other samples.

    Args:
        alone: number of a sample -> its loss in a smaller batch.
        together: (N,) losses in the whole batch.
    """
    coarse = together.dtype in (torch.bfloat16, torch.float16)
    rtol = 3e-2 if coarse else 1e-3
    for i, loss in alone.items():
        if not torch.isclose(loss, together[i], rtol=rtol, atol=1e-5, equal_nan=True):
            raise ValueError(
                f"the loss of sample {i} depends on the other samples: {together[i].item():.6g} "
                f"in the batch, {loss.item():.6g} without them"
            )


def require_independent(
    loss_fn: LossFunction, model: nn.Module, batch: Any, losses: Tensor
) -> None:
    """Raises where samples' losses are others with fewer samples beside them.

    Evaluates two parts of a quarter of the batch each, without gradients. They are drawn, so that
    neighbours, or samples a fixed distance apart, are parted; and what hangs on one sample, such
    as a largest value, is in one of them at most.

    Args:
        loss_fn, model, batch: as everywhere in geomfast; N samples, of which one alone says
            nothing.
        losses: (N,) of the whole batch, at the same weights.

    Raises:
        ValueError: with a sample's number, and its loss with and without the others.
    """
    samples = len(losses)
    if samples < 2:
        return
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(0), device="cpu")
    for which in order[: 2 * max(samples // 4, 1)].chunk(2):
        part = tree_map(lambda x, i=which: x[i.to(x.device)] if isinstance(x, Tensor) else x, batch)
        with torch.no_grad(), RefuseDropout():
            alone = checked_losses(loss_fn(model, part), len(which), False)
        require_equal_losses(dict(zip(which.tolist(), alone, strict=True)), losses.detach())


def refuse_coupled(model: nn.Module) -> None:
    """What makes a sample's loss random, or dependent on other samples."""
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise ValueError(f"dropout is on in {where}: call model.eval() first")
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training or not module.track_running_stats
        ):
            raise ValueError(f"{where} makes every sample's loss depend on the others")


def require_finite(gram: Tensor, name: str) -> None:
    bad = ~torch.isfinite(gram.diagonal())
    if bad.any():
        sample = int(bad.nonzero()[0])
        raise ValueError(f"the gradient of sample {sample} is not finite in parameter {name}")


class RefuseDropout(TorchFunctionMode):
    """Raises where a function called inside would drop at random."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        refuse_dropout(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def refuse_dropout(func: Any, args: tuple, kwargs: dict) -> None:
    """Raises if this call is to a function that drops at random."""
    if func is F.scaled_dot_product_attention:
        chance = kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)
        if chance > 0:
            raise ValueError(f"dropout of attention is on (dropout_p = {chance}): turn it off")
    elif func is F.dropout:
        chance = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
        active = kwargs.get("training", args[2] if len(args) > 2 else True)
        if active and chance > 0:
            raise ValueError(f"dropout is on (p = {chance}): call model.eval() first")
