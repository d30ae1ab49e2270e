"""Rules of the operations that parameters are used in: torch function -> how to note the use.

Each runs the operation, notes for every watched parameter among its arguments what a sample's
gradient is made of, and returns the result. With a position axis t and gradients b of the output:

- linear maps: `b_t a_t^T` summed over t (a the input);
- tables: `b_t` in the row that was looked up;
- scales and shifts: `b_t * a_t` and `b_t`, summed over what was broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.estimators.per_sample.watch import NotHandled, Watch
from geomfast.kernels.gradient_gram import Factors, whole


def _linear(watch: Watch, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _needs_samples(watch, x)
    out = F.linear(x, weight, bias)
    if watch.name(weight):
        _note_matrix(watch, weight, x, out, transposed=True)
    if watch.name(bias):
        _note_shift(watch, bias, out)
    return out


def _matmul(watch: Watch, x: Tensor, weight: Tensor) -> Tensor:
    _needs_samples(watch, x)
    if weight.dim() != 2 or not watch.name(weight):
        raise NotHandled
    out = torch.matmul(x, weight)
    _note_matrix(watch, weight, x, out, transposed=False)
    return out


def _addmm(watch: Watch, bias: Tensor, x: Tensor, weight: Tensor, **scales: Any) -> Tensor:
    _needs_samples(watch, x)
    if scales or watch.is_transposed(bias):
        raise NotHandled
    out = torch.addmm(bias, x, weight)
    if watch.name(weight):
        _note_matrix(watch, weight, x, out, transposed=False)
    if watch.name(bias):
        _note_shift(watch, bias, out)
    return out


def _note_matrix(watch: Watch, weight: Tensor, x: Tensor, out: Tensor, transposed: bool) -> None:
    """out = x @ weight, or x @ weight.T where `transposed`."""
    name = watch.name(weight)
    inputs = watch.rows(watch.keep(x, name))
    watch.rows(out)
    outputs_first = transposed != watch.is_transposed(weight)
    width = inputs.shape[-1]

    def rule(b: Tensor) -> Factors:
        b, a = watch.rows(b), inputs.to(b.dtype)
        return Factors(b, a, b.shape[-1]) if outputs_first else Factors(a, b, width)

    watch.note(weight, out, rule)


def _transpose(watch: Watch, weight: Tensor, *dims: int) -> Tensor:
    if weight.dim() != 2 or watch.is_transposed(weight) or len({d % 2 for d in dims}) == 1:
        raise NotHandled
    view = weight.t()
    watch.note_transposed(view, weight)
    return view


def _embedding(
    watch: Watch,
    index: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    if max_norm is not None or scale_grad_by_freq or sparse or watch.is_transposed(weight):
        raise NotHandled
    out = F.embedding(index, weight, padding_idx)
    return _looked_up(watch, weight, index, out, padding_idx)


def _getitem(watch: Watch, weight: Tensor, index: Any) -> Tensor:
    if watch.is_transposed(weight):
        raise NotHandled
    if isinstance(index, Tensor):
        if weight.dim() != 2 or index.is_floating_point() or index.dtype == torch.bool:
            raise NotHandled
        return _looked_up(watch, weight, index % len(weight), weight[index], None, own=index)
    if weight.dim() == 2 and isinstance(index, slice):
        rows = torch.arange(len(weight), device=weight.device)[index]
        return _looked_up(watch, weight, rows, weight[index], None)
    parts = index if isinstance(index, tuple) else (index,)
    view = weight[index]
    if view.dim() < 2 or not all(isinstance(part, (slice, int)) for part in parts):
        raise NotHandled
    shape, place = weight.shape, view.shape
    out = watch.expand(view)

    def rule(b: Tensor) -> Factors:
        gradients = b.new_zeros((watch.samples, *shape))
        gradients[(slice(None), *parts)] = b.reshape(watch.samples, *place)
        return whole(gradients)

    watch.note(weight, out, rule)
    return out


def _looked_up(
    watch: Watch,
    weight: Tensor,
    index: Tensor,
    out: Tensor,
    padding_idx: int | None,
    own: Any = None,
) -> Tensor:
    """Rows `index` of a table. Without samples of its own, `out` becomes one copy per sample."""
    # Positions that the program itself repeats for every sample have samples as well.
    repeated = index.dim() > 1 and index.shape[0] == watch.samples and index.stride(0) == 0
    if not repeated and not watch.has_samples(index if own is None else own):
        index, out = watch.expand(index), watch.expand(out)
    if index.dim() == 0 or index.shape[0] % watch.samples != 0:
        raise NotHandled
    name, rows = watch.name(weight), len(weight)
    index = watch.keep(index, name).reshape(watch.samples, -1)

    def rule(b: Tensor) -> Factors:
        b = watch.rows(b)
        if padding_idx is not None:
            b = b.masked_fill((index == padding_idx % rows)[..., None], 0.0)
        return Factors(index, b, rows)

    watch.note(weight, out, rule)
    return out


def _layer_norm(
    watch: Watch,
    x: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    _needs_samples(watch, x)
    out = F.layer_norm(x, normalized_shape, weight, bias, eps)
    if watch.name(weight):
        again = lambda x: F.layer_norm(x, normalized_shape, None, None, eps)  # noqa: E731
        _note_scale(watch, weight, x, out, again)
    if watch.name(bias):
        _note_shift(watch, bias, out)
    return out


def _rms_norm(
    watch: Watch,
    x: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    _needs_samples(watch, x)
    out = F.rms_norm(x, normalized_shape, weight, eps)
    again = lambda x: F.rms_norm(x, normalized_shape, None, eps)  # noqa: E731
    _note_scale(watch, weight, x, out, again)
    return out


def _mul(watch: Watch, a: Any, b: Any) -> Tensor:
    parameter, x = (a, b) if watch.name(a) else (b, a)
    _needs_samples(watch, x)
    out = torch.mul(a, b)
    _note_scale(watch, parameter, x, out, lambda x: x)
    return out


def _add(watch: Watch, a: Any, b: Any) -> Tensor:
    parameter, x = (a, b) if watch.name(a) else (b, a)
    _needs_samples(watch, x)
    out = torch.add(a, b)
    _note_shift(watch, parameter, out)
    return out


def _note_scale(
    watch: Watch,
    parameter: Tensor | None,
    x: Tensor,
    out: Tensor,
    factor: Callable[[Tensor], Tensor],
) -> None:
    """out = parameter * factor(x)."""
    parameter, reduce = _sum_to(watch, parameter, out)
    inputs = watch.keep(x, watch.name(parameter))
    watch.note(parameter, out, lambda b: whole(reduce(b * factor(inputs.to(b.dtype)))))


def _note_shift(watch: Watch, parameter: Tensor | None, out: Tensor) -> None:
    """out = something + parameter."""
    parameter, reduce = _sum_to(watch, parameter, out)
    watch.note(parameter, out, lambda b: whole(reduce(b)))


def _sum_to(
    watch: Watch, parameter: Tensor | None, out: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The parameter, and what sums a gradient shaped like `out` over its broadcast repetitions.

    Each sample apart: (N, ...) -> (N, entries of the parameter).
    """
    if parameter is None or watch.is_transposed(parameter):
        raise NotHandled
    shape = parameter.shape
    extra = out.dim() - parameter.dim()
    if extra < 0 or out.dim() == 0 or out.shape[0] % watch.samples != 0:
        raise NotHandled
    if extra == 0 and shape[0] != 1:
        raise NotHandled
    padded = (1,) * extra + tuple(shape)
    broadcast = [d for d in range(1, out.dim()) if padded[d] == 1 and out.shape[d] != 1]

    def reduce(b: Tensor) -> Tensor:
        b = b.sum(broadcast, keepdim=True) if broadcast else b
        return b.reshape(watch.samples, -1, shape.numel()).sum(1)

    return parameter, reduce


def _convolution(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule_of(
        watch: Watch,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        _needs_samples(watch, x)
        if groups != 1 or isinstance(padding, str) or x.shape[0] != watch.samples:
            raise NotHandled
        if x.dim() != weight.dim():  # one image, whose channels are as many as the samples
            raise NotHandled
        out = function(x, weight, bias, stride, padding, dilation)
        if watch.name(weight):
            note_weight(watch, x, weight, out, stride, padding, dilation)
        if bias is not None and watch.name(bias):
            watch.note(bias, out, lambda b: whole(b.flatten(2).sum(-1)))
        return out

    def note_weight(watch, x, weight, out, stride, padding, dilation) -> None:
        name, kernel = watch.name(weight), weight.shape[2:]
        inputs = watch.keep(x, name)
        flat = len(kernel) == 1  # one dimension: an image one pixel high

        def both(value: Any, filler: int) -> Any:
            values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * len(kernel)
            return (filler, *values) if flat else values

        def rule(b: Tensor) -> Factors:
            image = (inputs.unsqueeze(2) if flat else inputs).to(b.dtype)
            size = both(tuple(kernel), 1)
            patches = F.unfold(image, size, both(dilation, 1), both(padding, 0), both(stride, 1))
            return Factors(b.flatten(2).mT, patches.mT, weight.shape[0])

        watch.note(weight, out, rule)

    return rule_of


def _needs_samples(watch: Watch, x: Any) -> None:
    """Only what was computed from the batch has gradients of samples to tell apart."""
    if not watch.has_samples(x):
        raise NotHandled


def _getter(name: str) -> Any:
    """What a watched property, x.T say, is called as."""
    return getattr(Tensor, name).__get__


RULES: dict[Any, Callable[..., Tensor]] = {
    F.linear: _linear,
    torch.matmul: _matmul,
    torch.mm: _matmul,
    Tensor.matmul: _matmul,
    Tensor.mm: _matmul,
    Tensor.__matmul__: _matmul,
    torch.addmm: _addmm,
    Tensor.t: _transpose,
    torch.t: _transpose,
    Tensor.transpose: _transpose,
    torch.transpose: _transpose,
    _getter("T"): _transpose,
    _getter("mT"): _transpose,
    F.embedding: _embedding,
    Tensor.__getitem__: _getitem,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    torch.mul: _mul,
    Tensor.mul: _mul,
    Tensor.__mul__: _mul,
    Tensor.__rmul__: _mul,
    torch.add: _add,
    Tensor.add: _add,
    Tensor.__add__: _add,
    Tensor.__radd__: _add,
    F.conv1d: _convolution(F.conv1d),
    F.conv2d: _convolution(F.conv2d),
}
