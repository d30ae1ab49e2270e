"""What a model, its loss and a batch must be for gradients of single samples to make sense."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geomfast.estimators.batches import index_batch, shuffled, tensors_of

#: Samples that checks look at without the others, or a few more.
FEW = 16

#: Samples that checks look at one by one.
_SINGLE = 8

NO_PARAMETER = "the losses do not depend on any parameter that requires gradients"

#: What no name has, and every pattern of attention heads (`geomfast.estimators.heads`).
_OF_HEADS = re.compile(r"\s")

LossFunction = Callable[[nn.Module, Any], Tensor]


def select_parameters(
    model: nn.Module, params: Iterable[str] | int | None, *, entries: bool = False
) -> tuple[dict[str, Tensor], tuple[str, int] | None]:
    """Parameters by name, and the one of which only so many entries count.

    Args:
        model: whose.
        params: names with shell wildcards, of which those that begin with "!" leave parameters
            out; None for all that require gradients.
        entries: whether params may be the number of the first entries that count.

    Raises:
        TypeError: params is neither of these.
        ValueError: none is left, a pattern matches none, or one is complex.
    """
    trainable: dict[str, Tensor] = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    if not trainable:
        raise ValueError("no parameter of the model requires gradients")
    if isinstance(params, int):
        found, cut = _first_entries(trainable, params, entries)
    else:
        found, cut = _named(trainable, params), None
    for name, parameter in found.items():
        if parameter.is_complex():
            raise ValueError(
                f"parameter {name} is complex ({parameter.dtype}): hold its real and imaginary "
                "part as a real parameter (torch.view_as_real), or leave it out of params"
            )
    return found, cut


def _first_entries(
    trainable: dict[str, Tensor], params: int, allowed: bool
) -> tuple[dict[str, Tensor], tuple[str, int] | None]:
    if isinstance(params, bool) or not allowed:
        raise TypeError(f"params must be names of parameters, with shell wildcards, not {params!r}")
    if params < 1:
        raise ValueError(f"params must be 1 or more entries, not {params}")
    chosen, left = {}, params
    for name, parameter in trainable.items():
        chosen[name] = parameter
        left -= parameter.numel()
        if left <= 0:
            return chosen, (name, parameter.numel() + left)
    return chosen, None


def _named(trainable: dict[str, Tensor], params: Iterable[str] | None) -> dict[str, Tensor]:
    if params is None:
        return trainable
    if isinstance(params, (bytes, Mapping)) or not isinstance(params, Iterable):
        raise TypeError(f"params must be names of parameters, one or more, not {params!r}")
    patterns = [params] if isinstance(params, str) else list(params)
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"params must be names of parameters, one or more, not {params!r}")
    left_out = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    for pattern in (*wanted, *left_out):
        if _OF_HEADS.search(pattern):
            raise ValueError(
                f"params: {pattern!r} selects entries within parameters, to which this function "
                "cannot be restricted: name whole parameters"
            )
        if not fnmatch.filter(trainable, pattern):
            raise ValueError(f"params: {pattern!r} matches none of {list(trainable)}")
    found = {
        name: parameter
        for name, parameter in trainable.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in left_out)
    }
    if not found:
        raise ValueError(f"params: {params!r} leaves no parameter")
    return found


def unused_error(names: Iterable[str]) -> ValueError:
    """For parameters that reach no loss at all."""
    names = list(names)
    verb = f"parameter {names[0]} does" if len(names) == 1 else f"parameters {', '.join(names)} do"
    patterns = ", ".join(f'"!{name}"' for name in names)
    return ValueError(f"{verb} not reach the loss: leave it out, params=[{patterns}]")


def checked_losses(losses: Any, samples: int, differentiable: bool = True) -> Tensor:
    if not isinstance(losses, Tensor) or not losses.is_floating_point():
        kind = losses.dtype if isinstance(losses, Tensor) else type(losses).__name__
        raise TypeError(f"loss_fn must return a floating-point tensor, not {kind}")
    if losses.shape != (samples,):
        hint = "; it must not be reduced over samples" if losses.dim() == 0 else ""
        raise ValueError(f"loss_fn must return shape ({samples},), not {tuple(losses.shape)}{hint}")
    if differentiable and not losses.requires_grad:
        raise ValueError(NO_PARAMETER)
    return losses


def require_equal_losses(alone: dict[int, Tensor], together: Tensor) -> None:
    """Raises where a loss is another one without the other samples.

    Args:
        alone: number of a sample -> its loss in a smaller batch.
        together: (N,) losses in the whole batch.
    """
    coarse = together.dtype in (torch.bfloat16, torch.float16)
    rtol = 3e-2 if coarse else 1e-3
    if not alone:
        return
    losses = torch.stack(list(alone.values()))
    expected = together[torch.tensor(list(alone), device=together.device)]
    same = torch.isclose(losses, expected, rtol=rtol, atol=1e-5, equal_nan=True)
    if not same.all():
        first = int((~same).nonzero()[0])
        raise ValueError(
            f"the loss of sample {list(alone)[first]} depends on the other samples: "
            f"{expected[first].item():.6g} in the batch, {losses[first].item():.6g} without them"
        )


def require_independent(
    loss_fn: LossFunction, model: nn.Module, batch: Any, losses: Tensor, briefly: bool = False
) -> None:
    """Raises where samples' losses are others with fewer samples beside them.

    Evaluates two parts of the batch, without gradients. They are drawn, so that neighbours, or
    samples a fixed distance apart, are parted; and what hangs on one sample, such as a largest
    value, is in one of them at most. What hangs on many, such as the greatest length, is found by
    `require_same_alone`.

    Args:
        loss_fn, model, batch: as everywhere in geomfast; N samples, of which one alone says
            nothing.
        losses: (N,) of the whole batch, at the same weights.
        briefly: of single samples only the shortest is looked at, where samples are sequences.

    Raises:
        ValueError: with a sample's number, and its loss with and without the others.
    """
    if len(losses) < 2:
        return
    for which in shuffled(len(losses))[: 2 * FEW].chunk(2):
        with torch.no_grad():
            alone = checked_losses(loss_fn(model, index_batch(batch, which)), len(which), False)
        require_equal_losses(dict(zip(which.tolist(), alone, strict=True)), losses.detach())
    require_same_alone(loss_fn, model, batch, losses, briefly)


def require_same_alone(
    loss_fn: LossFunction, model: nn.Module, batch: Any, losses: Tensor, briefly: bool = False
) -> None:
    """Raises where the loss of a single sample is another one in a batch of its own.

    Such as in a model that pads to the longest sample and attends to what it has padded: every
    large part of a batch holds a sample of full length. Each sample that is looked at goes through
    the model beside a copy of itself, for a model may take a first dimension of 1 for none.

    Args, raises: as `require_independent`.
    """
    samples = len(losses)
    if samples < 2:
        return
    for one in _worth_a_look(batch, samples, briefly):
        with torch.no_grad():
            pair = torch.tensor([one, one], device="cpu")
            alone = checked_losses(loss_fn(model, index_batch(batch, pair)), 2, False)
        require_equal_losses({one: alone[0]}, losses.detach())


def _worth_a_look(batch: Any, samples: int, briefly: bool) -> list[int]:
    """Numbers of samples: the shortest, the least and the greatest, and two that are drawn.

    The shortest of several sequences only; of vectors none is.
    """
    tensors = [
        x.detach()
        for x in tensors_of(batch)
        if x.shape[:1] == (samples,) and x.numel() and x.layout == torch.strided
    ]
    lengths = [_filled(x) for x in tensors if x.dim() > 2 or (x.dim() == 2 and not _real(x))]
    # Whole numbers, one for each of several sequences, may be their lengths, or labels.
    lengths += [x for x in tensors if lengths and x.dim() == 1 and not _real(x)]
    found = [int(length.argmin()) for length in lengths]
    if not briefly:
        sizes = [(x if x.is_complex() else x.float()).abs().reshape(samples, -1) for x in tensors]
        found += [int(at) for x in sizes for at in (x.sum(1).argmin(), x.sum(1).argmax())]
        found += shuffled(samples)[:2].tolist()
    return list(dict.fromkeys(found))[: 1 if briefly else _SINGLE]


def _real(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _filled(x: Tensor) -> Tensor:
    """(N,) places of every sequence that are not padding, whatever value that has.

    Padding is what equals the last, or the first, place; in a mask it is what is 0.
    """
    if x.dtype == torch.bool or (not _real(x) and int(x.max()) <= 1):
        return (x != 0).reshape(len(x), -1).sum(1)
    rest = tuple(range(2, x.dim()))
    ends = [(x != end) for end in (x[:, -1:], x[:, :1])]
    return torch.minimum(*((each.any(rest) if rest else each).sum(1) for each in ends))


def check_sample_independence(model: nn.Module) -> None:
    """What makes a sample's loss random, or dependent on other samples."""
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise ValueError(f"dropout is on in {where}: call model.eval() first")
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training or not module.track_running_stats
        ):
            raise ValueError(f"{where} makes every sample's loss depend on the others")


def refuse_projected(model: nn.Module) -> None:
    """Tables whose rows every forward pass cuts to a length: no chain can move them freely."""
    for name, module in model.named_modules():
        if module.__dict__.get("max_norm") is not None:
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) cuts its rows to max_norm = "
                f"{module.max_norm} in every forward pass: set max_norm to None"
            )


def require_finite(squares: Tensor, name: str) -> None:
    """Raises where one of (N,) squared norms of a parameter's gradients is not finite."""
    bad = ~torch.isfinite(squares)
    if bad.any():
        sample = int(bad.nonzero()[0])
        raise ValueError(f"the gradient of sample {sample} is not finite in parameter {name}")


class DropoutIsOn(ValueError):
    """A function that was called would drop at random."""


def refuse_dropout(func: Any, args: tuple, kwargs: dict) -> None:
    """Raises if this call is to a function that drops at random.

    Raises:
        DropoutIsOn: without the name of the module, which the caller adds.
    """
    if func is F.scaled_dot_product_attention:
        chance = kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)
        if chance > 0:
            raise DropoutIsOn(f"dropout of attention is on (dropout_p = {chance})")
    elif func in _DROPOUTS:
        chance = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
        active = kwargs.get("training", args[2] if len(args) > 2 else _DROPOUTS[func])
        if active and chance > 0:
            raise DropoutIsOn(f"dropout is on (p = {chance})")


#: Functions that drop at random, all (input, p, training): whether they do so by default.
_DROPOUTS = {
    F.dropout: True,
    F.dropout1d: True,
    F.dropout2d: True,
    F.dropout3d: True,
    F.alpha_dropout: False,
    F.feature_alpha_dropout: False,
    torch.dropout: True,
    torch.feature_dropout: True,
    torch.alpha_dropout: True,
    torch.feature_alpha_dropout: True,
}
