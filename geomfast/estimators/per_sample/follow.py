"""Which dimension of a tensor holds the samples, through the operations of a model.

A tensor is followed where one of its dimensions holds the samples in order: the first one with
equally many rows of each, or any other with one of each. Only operations that are known to keep
that are listed: whatever else rows have been through, a mask, an index, a sort, another library,
their samples have to be verified.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

#: A tensor that depends on the batch, and its dimension of samples.
Followed = tuple[Tensor, int]
_Rule = Callable[[tuple, dict, Sequence[Followed], Tensor], "int | None"]


def followed_dimension(
    func: Any, args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor, samples: int
) -> int | None:
    """The dimension of `out` that holds the samples; None where that is not known.

    Args:
        func, args, kwargs: of the call.
        sampled: its arguments that depend on the batch, all of them followed.
        out: a tensor that it returned.
        samples: N.
    """
    rule = _RULES.get(_name(func))
    if rule is None or out.dim() == 0:
        return None
    try:
        at = rule(args, kwargs, sampled, out)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError):
        return None  # what a rule cannot make sense of it does not vouch for
    if at is None or at >= out.dim():
        return None
    if out.shape[at] != samples and (at > 0 or out.shape[at] % samples != 0):
        return None
    return at


def _name(func: Any) -> str:
    """Of a function, a method, also in place, or a property: one name for all its forms."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return "." + getattr(getattr(func, "__self__", None), "__name__", "")
    return name if name.startswith("__") else name.rstrip("_")


def returned(func: Any, args: tuple, out: Any) -> list[Tensor]:
    """The tensors that a call made, or wrote into."""
    if func is Tensor.__setitem__:
        return [args[0]]
    return [out] if isinstance(out, Tensor) else [x for x in tree_leaves(out) if _is_tensor(x)]


def _is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


def _agreed(places: Sequence[int]) -> int | None:
    return places[0] if all(place == places[0] for place in places) else None


def _elementwise(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    """Dimensions are broadcast from the last one on."""
    at = _agreed([out.dim() - x.dim() + p for x, p in sampled])
    if at is None or any(x.shape[p] != out.shape[at] for x, p in sampled):
        return None
    return at


def _reshaped(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    (x, p) = sampled[0]
    return p if p == 0 or x.shape[: p + 1] == out.shape[: p + 1] else None


def _first_argument(args: tuple, kwargs: dict, sampled: Sequence[Followed]) -> Followed:
    """The only argument with samples, which has to be the first."""
    ((x, p),) = sampled
    if x is not (args[0] if args else kwargs["input"]):
        raise LookupError
    return x, p


def _linear(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    x, p = _first_argument(args, kwargs, sampled)
    return p if p < x.dim() - 1 else None


def _normalised(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    x, p = _first_argument(args, kwargs, sampled)
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    return p if p < x.dim() - len(shape) else None


def _image(dimensions: int) -> _Rule:
    """Of a batch of images: of one alone the first dimension would be its channels."""

    def rule(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
        x, p = _first_argument(args, kwargs, sampled)
        return p if p == 0 and x.dim() == dimensions else None

    return rule


def _rows(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    x, p = _first_argument(args, kwargs, sampled)
    return p if p == 0 and x.dim() >= 2 else None


def _looked_up(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    return sampled[0][1] if len(sampled) == 1 else None


def _product(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    first = next(x for x in args[-2:] if isinstance(x, Tensor))
    for x, p in sampled:
        inner = 1 if x is first and len(sampled) == 1 else 2
        if x.dim() != out.dim() or p >= x.dim() - inner:
            return None
    return _agreed([p for _, p in sampled])


def _matrices(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    """Of which the samples have some each."""
    if any(x.dim() != out.dim() or p >= x.dim() - 2 for x, p in sampled):
        return None
    return _agreed([p for _, p in sampled])


def _each_loss(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    return 0 if kwargs.get("reduction") == "none" and all(p == 0 for _, p in sampled) else None


def _along(at: int, default: int | None = None) -> _Rule:
    """Along some dimensions, given by name or as argument `at`, which may be reduced."""

    def rule(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
        dims = next((kwargs[key] for key in ("dim", "dims", "axis") if key in kwargs), None)
        if dims is None:
            dims = default if len(args) <= at and default is not None else args[at]
        p, length = _agreed([p for _, p in sampled]), _agreed([x.dim() for x, _ in sampled])
        if p is None or length is None:
            return None
        dims = dims if isinstance(dims, (tuple, list)) else (dims,)
        places = {int(d) % length for d in dims}
        if not places or p in places:
            return None
        return p if out.dim() == length else p - sum(d < p for d in places)

    return rule


def _joined(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    parts = args[0] if args else kwargs["tensors"]
    if len(parts) == 1:
        return sampled[0][1]
    return _along(1, default=0)(args, kwargs, sampled, out)


def _parted(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    x, p = sampled[0]
    return p if out.shape == x.shape else _along(2, default=0)(args, kwargs, sampled, out)


def _with_more(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    """unsqueeze and stack: a new dimension, counted among those of the result."""
    d = kwargs["dim"] if "dim" in kwargs else args[1] if len(args) > 1 else 0
    p = _agreed([p for _, p in sampled])
    return None if p is None else p + (int(d) % out.dim() <= p)


def _transposed(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    x, p = sampled[0]
    d, e = (int(d) % x.dim() for d in (*args[1:], *kwargs.values()))
    return {d: e, e: d}.get(p, p)


def _turned(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    return 1 - sampled[0][1] if out.dim() == 2 else None


def _permuted(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    dims = kwargs.get("dims", args[1] if len(args) == 2 else args[1:])
    return [int(d) % out.dim() for d in dims].index(sampled[0][1])


def _expanded(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    return _elementwise(args, kwargs, sampled[:1], out)


def _padded(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    x, p = _first_argument(args, kwargs, sampled)
    pad = args[1] if len(args) > 1 else kwargs["pad"]
    return p if p < x.dim() - len(pad) // 2 else None


def _indexed(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    x, index = args
    parts = list(index) if isinstance(index, tuple) else [index]
    first = parts[0]
    if isinstance(first, Tensor):
        # x[range(N), position of each sample]
        places = [part for part in parts if isinstance(part, Tensor)]
        every = (
            first.dtype == torch.int64
            and all(part.dim() == 1 for part in places)
            and parts[: len(places)] == places
            and torch.equal(first, torch.arange(len(x), device=first.device))
        )
        return 0 if every and all(p == 0 for _, p in sampled) else None
    if len(sampled) != 1 or sampled[0][0] is not x:
        return None
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis in [part for part in parts if not isinstance(part, Tensor)]:
        at = next(i for i, part in enumerate(parts) if part is Ellipsis)
        parts[at : at + 1] = [slice(None)] * (x.dim() - taken)
    # Dimensions of the tensor that are passed by, and those of the result.
    dimension = place = 0
    for part in parts:
        if dimension > sampled[0][1]:
            break
        if part is None:
            place += 1
            continue
        if dimension == sampled[0][1]:
            if not (isinstance(part, slice) and part == slice(None)):
                return None
            break
        if isinstance(part, slice):
            place += 1
        elif not isinstance(part, int):
            return None
        dimension += 1
    # torch puts what several tensors index first, where something else is between them.
    tensors = [i for i, part in enumerate(parts) if isinstance(part, (Tensor, list))]
    if tensors and tensors != list(range(tensors[0], tensors[-1] + 1)):
        return None
    return place + sampled[0][1] - dimension


def _written(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    """x[index] = value, of which x is returned."""
    x, index, value = args
    if any(p != 0 for _, p in sampled):
        return None
    if not any(value is y for y, _ in sampled):
        return 0 if any(x is y for y, _ in sampled) else None
    parts = index if isinstance(index, tuple) else (index,)
    kept = isinstance(parts[0], slice) and parts[0] == slice(None) and value.dim() >= 1
    plain = all(isinstance(part, (slice, int)) for part in parts)
    return 0 if kept and plain and value.shape[0] == len(x) else None


def _summed(args: tuple, kwargs: dict, sampled: Sequence[Followed], out: Tensor) -> int | None:
    """einsum: all samples under one letter, which nothing without samples has."""
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = operands[0]
    match = re.fullmatch(r"([A-Za-z,]+)->([A-Za-z]+)", equation.replace(" ", ""))
    if match is None:
        return None
    inputs = match[1].split(",")
    places = {id(x): p for x, p in sampled}
    letters = {
        part[places[id(x)]] for part, x in zip(inputs, operands, strict=True) if id(x) in places
    }
    (letter,) = letters
    if any(letter in part for part, x in zip(inputs, operands, strict=True) if id(x) not in places):
        return None
    return match[2].index(letter)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        _words(
            """
            add sub subtract mul multiply div divide true_divide floor_divide pow rsub neg negative
            abs exp exp2 log log2 log10 log1p expm1 sqrt rsqrt square reciprocal sigmoid tanh relu
            relu6 gelu silu elu selu celu leaky_relu softplus hardtanh hardswish hardsigmoid mish
            logsigmoid softsign tanhshrink hardshrink softshrink threshold erf erfc sin cos tan sinh
            cosh atan asin acos clamp clamp_min clamp_max clip minimum maximum fmin fmax where
            masked_fill lerp addcmul addcdiv eq ne lt le gt ge logical_and logical_or logical_not
            logical_xor bitwise_and bitwise_or bitwise_not isnan isfinite isinf nan_to_num sign
            round floor ceil trunc fmod remainder float double half bfloat16 long int bool to type
            type_as contiguous clone detach dropout requires_grad zeros_like ones_like full_like
            empty_like copy fill zero xlogy hypot atan2 cpu cuda __add__ __radd__ __iadd__ __sub__
            __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__ __rtruediv__ __itruediv__
            __floordiv__ __pow__ __rpow__ __neg__ __invert__ __abs__ __eq__ __ne__ __lt__ __le__
            __gt__ __ge__ __and__ __or__ __xor__ __rand__ __ror__ __mod__ .data .real
            """
        ),
        _elementwise,
    ),
    **dict.fromkeys(_words("view reshape flatten unflatten ravel view_as reshape_as"), _reshaped),
    **{
        f"{kind}{n}d": _image(n + 2)
        for n in (1, 2, 3)
        for kind in _words(
            "conv conv_transpose max_pool avg_pool adaptive_avg_pool adaptive_max_pool"
        )
    },
    **dict.fromkeys(
        _words(
            """
            cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy
            kl_div binary_cross_entropy_with_logits soft_margin_loss
            """
        ),
        _each_loss,
    ),
    **dict.fromkeys(
        _words(
            """
            sum mean nansum amax amin max min argmax argmin prod std var logsumexp cumsum cumprod
            softmax log_softmax any all gather take_along_dim index_select flip select narrow
            median glu sort argsort squeeze scatter scatter_add count_nonzero
            """
        ),
        _along(1),
    ),
    "unbind": _along(1, default=0),
    **dict.fromkeys(_words("norm vector_norm topk roll"), _along(2)),
    **dict.fromkeys(_words("split chunk"), _parted),
    "normalize": _along(2, default=1),
    **dict.fromkeys(_words("cat concat concatenate"), _joined),
    **dict.fromkeys(_words("unsqueeze stack"), _with_more),
    **dict.fromkeys(_words("transpose swapaxes swapdims"), _transposed),
    **dict.fromkeys(_words("t .T"), _turned),
    **dict.fromkeys(_words("expand expand_as broadcast_to"), _expanded),
    **dict.fromkeys(_words("matmul __matmul__ mm bmm addmm baddbmm"), _product),
    **dict.fromkeys(_words("tril triu .mT scaled_dot_product_attention"), _matrices),
    **dict.fromkeys(_words("layer_norm rms_norm"), _normalised),
    **dict.fromkeys(_words("group_norm instance_norm batch_norm"), _rows),
    **dict.fromkeys(_words("embedding one_hot"), _looked_up),
    "linear": _linear,
    "permute": _permuted,
    "pad": _padded,
    "einsum": _summed,
    "__getitem__": _indexed,
    "__setitem__": _written,
}
