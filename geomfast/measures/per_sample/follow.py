"""Which operations keep the rows of a tensor with their samples.

A tensor's rows are followed where its first dimension holds the samples in order, each with equally
many rows. Only operations that are known to keep that are listed: whatever else rows have been
through, a mask, an index, a sort, another library, their samples have to be verified.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


def keeps_rows(
    func: Any, args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor, samples: int
) -> bool:
    """Whether rows of `out` are followed, given that those of all sampled arguments are.

    Args:
        func, args, kwargs: of the call.
        sampled: its arguments that depend on the batch.
        out: a tensor that it returned.
        samples: N.
    """
    if out.dim() == 0 or out.shape[0] % samples != 0 or any(x.dim() == 0 for x in sampled):
        return False
    name = _name(func)
    if name in _RESHAPES:
        return True
    same = all(x.shape[0] == out.shape[0] for x in sampled)
    if not same:
        return False
    if name in _ELEMENTWISE:
        return all(x.dim() == out.dim() for x in sampled)
    rule = _RULES.get(name)
    try:
        # What a rule cannot make sense of it does not vouch for.
        return rule is not None and rule(args, kwargs, sampled, out)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError):
        return False


def _name(func: Any) -> str:
    """Of a function, a method, also in place, or a property: one name for all its forms."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return "." + getattr(getattr(func, "__self__", None), "__name__", "")
    if name.startswith("__"):
        return name
    return name.rstrip("_")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RESHAPES = frozenset({"view", "reshape", "flatten", "unflatten", "ravel", "view_as", "reshape_as"})

_ELEMENTWISE = _words(
    """
    add sub subtract mul multiply div divide true_divide floor_divide pow rsub neg negative abs
    exp exp2 log log2 log10 log1p expm1 sqrt rsqrt square reciprocal sigmoid tanh relu relu6
    gelu silu elu selu celu leaky_relu softplus hardtanh hardswish hardsigmoid mish logsigmoid
    softsign tanhshrink hardshrink softshrink threshold erf erfc sin cos tan sinh cosh atan asin
    acos clamp clamp_min clamp_max clip minimum maximum fmin fmax where masked_fill lerp addcmul
    addcdiv eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and
    bitwise_or bitwise_not isnan isfinite isinf nan_to_num sign round floor ceil trunc fmod
    remainder float double half bfloat16 long int bool to type type_as contiguous clone detach
    dropout requires_grad zeros_like ones_like full_like empty_like copy fill zero xlogy hypot
    atan2 cpu cuda __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__
    __truediv__ __rtruediv__ __itruediv__ __floordiv__ __pow__ __rpow__ __neg__ __invert__
    __abs__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __and__ __or__ __xor__ __rand__ __ror__
    __mod__ .data .real
    """
)

_Rule = Callable[[tuple, dict, Sequence[Tensor], Tensor], bool]


def _only_first(least: int) -> _Rule:
    """Rows of the first argument alone, of `least` dimensions or more, and kept one by one."""

    def rule(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
        (x,) = sampled
        return x is (args[0] if args else kwargs["input"]) and x.dim() >= least

    return rule


def _image(name: str) -> _Rule:
    """Of a batch of images: of one alone the first dimension would be its channels."""
    dimensions = int(name[-2]) + 2

    def rule(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
        (x,) = sampled
        return x is (args[0] if args else kwargs["input"]) and x.dim() == dimensions

    return rule


def _product(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
    factors = [x for x in args[-2:] if isinstance(x, Tensor)]
    if len(sampled) == 1 and sampled[0] is factors[0]:
        return sampled[0].dim() >= 2 and sampled[0].dim() == out.dim()
    return all(x.dim() >= 3 and x.dim() == out.dim() for x in sampled)


def _alike(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
    return all(x.dim() == out.dim() >= 3 for x in sampled)


def _each_loss(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
    return kwargs.get("reduction") == "none"


def _along(at: int, grows: bool = False) -> _Rule:
    """Along some dimensions, given by name or as argument `at`, but not along the first."""

    def rule(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
        dims = next((kwargs[key] for key in ("dim", "dims", "axis") if key in kwargs), None)
        if dims is None:
            dims = args[at]
        dims = dims if isinstance(dims, (tuple, list)) else (dims,)
        number = {x.dim() for x in sampled}
        if len(number) != 1 or not dims:
            return False
        length = number.pop() + grows
        return all(int(d) % length != 0 for d in dims)

    return rule


def _moved(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
    """transpose(x, d, e) and its synonyms."""
    x = sampled[0]
    dims = [int(d) % x.dim() for d in (*args[1:], *kwargs.values())]
    return 0 not in dims


def _permuted(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
    dims = kwargs.get("dims", args[1] if len(args) == 2 else args[1:])
    return int(dims[0]) % out.dim() == 0


def _expanded(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
    return len(sampled) == 1 and sampled[0].dim() == out.dim()


def _padded(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
    pad = args[1] if len(args) > 1 else kwargs["pad"]
    return len(sampled) == 1 and len(pad) < 2 * sampled[0].dim()


def _indexed(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
    x, index = args
    parts = index if isinstance(index, tuple) else (index,)
    places = [i for i, part in enumerate(parts) if isinstance(part, (Tensor, list))]
    if places and places != list(range(places[0], places[-1] + 1)):
        return False  # torch puts what is indexed first then
    first = parts[0]
    if isinstance(first, Tensor):
        # x[range(N), position of each sample]
        return (
            first.dim() == 1
            and first.dtype == torch.int64
            and torch.equal(first, torch.arange(len(x), device=first.device))
            and all(part.dim() == 1 for part in parts if isinstance(part, Tensor))
        )
    if sampled[0] is not x or len(sampled) != 1:
        return False
    if first is Ellipsis:
        return len([part for part in parts if part is not None]) <= x.dim()
    return isinstance(first, slice) and first == slice(None)


def _written(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
    """x[index] = value, of which x is returned."""
    x, index, value = args
    if not any(value is y for y in sampled):
        return any(x is y for y in sampled)
    parts = index if isinstance(index, tuple) else (index,)
    kept = parts[0] is Ellipsis or (isinstance(parts[0], slice) and parts[0] == slice(None))
    return kept and all(isinstance(part, (slice, int)) or part is Ellipsis for part in parts)


def _summed(args: tuple, kwargs: dict, sampled: Sequence[Tensor], out: Tensor) -> bool:
    """einsum: the first letter is the samples', and no operand without samples has it."""
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = operands[0]
    match = re.fullmatch(r"([A-Za-z, ]+)->([A-Za-z ]+)", equation)
    if match is None:
        return False
    letter = match[2].strip()[0]
    inputs = [part.strip() for part in match[1].split(",")]
    return all(
        part[0] == letter if any(x is y for y in sampled) else letter not in part
        for part, x in zip(inputs, operands, strict=True)
    )


_IMAGES = [
    f"{kind}{n}d"
    for n in (1, 2, 3)
    for kind in ("conv", "conv_transpose", "max_pool", "avg_pool", "adaptive_avg_pool")
] + [f"adaptive_max_pool{n}d" for n in (1, 2, 3)]
_LOSSES = _words(
    """
    cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy
    kl_div binary_cross_entropy_with_logits soft_margin_loss
    """
)
_NOT_ALONG_FIRST = _words(
    """
    sum mean nansum amax amin max min argmax argmin prod std var logsumexp cumsum cumprod
    softmax log_softmax any all gather take_along_dim index_select flip select narrow unbind cat
    concat concatenate median glu sort argsort squeeze scatter scatter_add count_nonzero
    """
)

_RULES: dict[str, _Rule] = {
    **{name: _image(name) for name in _IMAGES},
    **dict.fromkeys(_LOSSES, _each_loss),
    **dict.fromkeys(_NOT_ALONG_FIRST, _along(1)),
    **dict.fromkeys(
        ("norm", "vector_norm", "split", "chunk", "topk", "roll", "normalize"), _along(2)
    ),
    **dict.fromkeys(("unsqueeze", "stack"), _along(1, grows=True)),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _moved),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), _expanded),
    **dict.fromkeys(("matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm"), _product),
    **dict.fromkeys(("linear", "group_norm", "instance_norm", "batch_norm"), _only_first(2)),
    **dict.fromkeys(("layer_norm", "rms_norm"), _only_first(2)),
    **dict.fromkeys(("embedding", "one_hot"), lambda args, kwargs, sampled, out: len(sampled) == 1),
    **dict.fromkeys(("tril", "triu", ".mT"), _alike),
    "scaled_dot_product_attention": _alike,
    "permute": _permuted,
    "pad": _padded,
    "einsum": _summed,
    "__getitem__": _indexed,
    "__setitem__": _written,
}


def returned(func: Any, args: tuple, out: Any) -> list[Tensor]:
    """The tensors that a call made, or wrote into."""
    if func is Tensor.__setitem__:
        return [args[0]]
    return [x for x in tree_leaves(out) if isinstance(x, Tensor)]
