"""Calls of torch's functions, by pairs where they are plain; None leaves them to torch.

Arguments have torch's names and order.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geomfast.estimators.curvature.twice import attention as attentions
from geomfast.estimators.curvature.twice import linear as linears
from geomfast.estimators.curvature.twice import norms, rows


def plain(*tensors: Any) -> bool:
    """Whether all are ordinary tensors of one device and of one type, float32 or float64."""
    first = tensors[0]
    return all(
        type(x) in (Tensor, nn.Parameter)
        and x.layout is torch.strided
        and x.dtype in (torch.float32, torch.float64)
        and x.dtype == first.dtype
        and x.device == first.device
        and x.device.type in ("cpu", "cuda")
        and x.numel() > 0
        for x in tensors
    )


def _softmax_like(made: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor | None]:
    def call(input: Any, dim: Any, dtype: Any = None) -> Tensor | None:
        if not plain(input) or not input.requires_grad or type(dim) is not int:
            return None
        if dtype not in (None, input.dtype) or not -input.ndim <= dim < input.ndim:
            return None
        return made(input, dim % input.ndim)

    return call


def _softmax_of_functional(made: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    def call(input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None):
        return made(input, dim, dtype)

    return call


_softmax = _softmax_like(rows.softmax)
_log_softmax = _softmax_like(rows.log_softmax)


def _layer_norm(
    input: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: Any = 1e-5,
    cudnn_enable: Any = True,
) -> Tensor | None:
    given = [x for x in (weight, bias) if x is not None]
    shape = _normalized(input, normalized_shape, given)
    if shape is None or (weight is None and bias is not None):
        return None
    weight, bias = (None if x is None else x.reshape(-1) for x in (weight, bias))
    y = norms.layer_norm(input.reshape(-1, math.prod(shape)), weight, bias, eps)
    return y.view(input.shape)


def _rms_norm(
    input: Any, normalized_shape: Any, weight: Any = None, eps: Any = None
) -> Tensor | None:
    given = [] if weight is None else [weight]
    shape = _normalized(input, normalized_shape, given)
    if shape is None:
        return None
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    weight = None if weight is None else weight.reshape(-1)
    return norms.rms_norm(input.reshape(-1, math.prod(shape)), weight, eps).view(input.shape)


def _normalized(input: Any, shape: Any, given: list[Any]) -> tuple[int, ...] | None:
    """Which shape is normed; None where torch has to see to it."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not shape or not plain(input, *given) or not input.requires_grad:
        return None
    if input.shape[-len(shape) :] != shape or any(x.shape != shape for x in given):
        return None
    return shape


def _cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor | None:
    unusual = weight is not None or size_average is not None or reduce is not None
    if unusual or label_smoothing != 0.0 or reduction not in ("none", "mean", "sum"):
        return None
    if not plain(input) or not input.requires_grad or type(target) is not Tensor:
        return None
    dim = min(1, input.ndim - 1)
    if dim < 0 or target.dtype != torch.long or target.device != input.device:
        return None
    if target.shape != input.shape[:dim] + input.shape[dim + 1 :]:
        return None
    # Classes last: rows of memory, in a language model's logits that were transposed for this.
    logits = input.movedim(dim, -1).reshape(-1, input.shape[dim])
    losses = rows.cross_entropy(logits, target.reshape(-1), ignore_index)
    if reduction == "none":
        return losses.view(target.shape)
    return losses.sum() if reduction == "sum" else losses.sum() / (target != ignore_index).sum()


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    if not plain(query, key, value) or dropout_p != 0.0 or min(query.ndim, key.ndim) < 3:
        return None
    if not (query.requires_grad and key.requires_grad and value.requires_grad):
        return None
    if attn_mask is not None:
        known = type(attn_mask) is Tensor and attn_mask.dtype in (torch.bool, query.dtype)
        if is_causal or not known or attn_mask.requires_grad:
            return None
    if enable_gqa and key.ndim == value.ndim == query.ndim and query.ndim >= 4:
        heads, of_key, of_value = query.shape[-3], key.shape[-3], value.shape[-3]
        if heads % of_key or heads % of_value:
            return None
        if heads != of_key:
            key = key.repeat_interleave(heads // of_key, -3)
        if heads != of_value:
            value = value.repeat_interleave(heads // of_value, -3)
    lead, t, e = query.shape[:-2], query.shape[-2], query.shape[-1]
    if key.shape[:-2] != lead or value.shape[:-2] != lead:
        return None
    if key.shape[-1] != e or key.shape[-2] != value.shape[-2]:
        return None
    factor = e**-0.5 if scale is None else float(scale)
    q, k, v = (x.reshape(-1, *x.shape[-2:]) for x in (query, key, value))
    with torch.no_grad():
        p = _probabilities(q, k, lead, attn_mask, is_causal, factor)
    if p is None:
        return None
    return attentions.attention(q, k, v, p, factor).view(*lead, t, value.shape[-1])


def _probabilities(
    q: Tensor, k: Tensor, lead: torch.Size, mask: Tensor | None, is_causal: bool, scale: float
) -> Tensor | None:
    """(b, t, T), 0 in a row that may look nowhere; None for a mask of another shape."""
    scores = attentions.times(q, k.mT, scale)
    whole = scores.view(*lead, *scores.shape[-2:])
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is None:
        return scores.softmax(-1)
    try:
        mask = mask.expand(whole.shape)
    except RuntimeError:
        return None
    if mask.dtype == torch.bool:
        whole.masked_fill_(~mask, -torch.inf)
    else:
        whole += mask
    if is_causal:
        return scores.softmax(-1)
    nowhere = (scores == -torch.inf).all(-1, keepdim=True)
    return scores.softmax(-1).masked_fill_(nowhere, 0.0)


def _linear(input: Any, weight: Any, bias: Any = None) -> Tensor | None:
    given = [] if bias is None else [bias]
    if not plain(input, weight, *given) or weight.ndim != 2 or input.ndim < 2:
        return None
    if not (input.requires_grad and weight.requires_grad):
        return None
    if input.shape[-1] != weight.shape[1] or any(b.shape != weight.shape[:1] for b in given):
        return None
    y = linears.linear(input.reshape(-1, input.shape[-1]), weight, bias)
    return y.view(*input.shape[:-1], len(weight))


def _addmm(input: Any, mat1: Any, mat2: Any) -> Tensor | None:
    """As Conv1D of transformers calls it."""
    if not isinstance(mat2, Tensor) or mat2.ndim != 2 or not isinstance(mat1, Tensor):
        return None
    return _linear(mat1, mat2.mT, input) if mat1.ndim == 2 else None


def _matmul(input: Any, other: Any) -> Tensor | None:
    if not isinstance(other, Tensor) or other.ndim != 2:
        return None
    return _linear(input, other.mT) if isinstance(input, Tensor) else None


def _mm(input: Any, mat2: Any) -> Tensor | None:
    return _matmul(input, mat2) if isinstance(input, Tensor) and input.ndim == 2 else None


#: torch's function -> one of the same arguments.
CALLS: dict[Any, Callable[..., Tensor | None]] = {
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.softmax: _softmax_of_functional(_softmax),
    torch.log_softmax: _log_softmax,
    Tensor.log_softmax: _log_softmax,
    F.log_softmax: _softmax_of_functional(_log_softmax),
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.cross_entropy: _cross_entropy,
    F.scaled_dot_product_attention: _attention,
    F.linear: _linear,
    torch.addmm: _addmm,
    torch.matmul: _matmul,
    torch.mm: _mm,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    Tensor.mm: _mm,
}


#: Functions of torch.nn.functional that call others of these, which a mode would not see.
CALLING = {F.multi_head_attention_forward}


def body(function: Any) -> Callable[..., Any]:
    """The same function, which does not ask a mode before it begins."""
    names = {**function.__globals__, "has_torch_function": lambda tensors: False}
    found = types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    found.__kwdefaults__ = function.__kwdefaults__
    return found
