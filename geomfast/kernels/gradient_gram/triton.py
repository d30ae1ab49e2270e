"""Backend "triton": ghost products and materialised chunks by Triton kernels.

Supports CUDA tensors, and CPU tensors under Triton's interpreter (`TRITON_INTERPRET=1`, for tests).
Every function returns the same bits for the same input, and none waits for the GPU.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from geomfast.kernels.backends import launching_on
from geomfast.kernels.gradient_gram.factors import Factors

# An H100's or H200's, for a torch that does not say.
_CACHE_BYTES = 50 << 20
# Of addresses in bytes, of strides and lengths in entries: what Triton compiles wide reads for.
_ALIGNMENT = 16


def ghost(uses: list[Factors], max_bytes: int) -> Tensor:
    """K_ij = sum_ts (left_it . left_js) (right_it . right_js), never forming a gradient.

    Args:
        uses: all uses of one parameter; N samples each.
        max_bytes: for temporaries, as far as one matrix of sums allows.

    Returns:
        (N, N) float64, symmetric.
    """
    from geomfast.kernels.gradient_gram.ghost_kernel import ghost_products

    if uses[0].rows == 1 and uses[0].one_hot and [use.length for use in uses] == [1]:
        return gram_of_rows(uses[0].right[:, 0])  # a gradient stored whole: nothing to multiply by
    device = uses[0].right.device
    uses = [
        Factors(use.left if use.one_hot else _aligned(use.left), _aligned(use.right), use.rows)
        for use in _in_one_type(uses)
    ]
    with launching_on(device):
        return _mirrored(ghost_products(uses, max_bytes, _multiprocessors(device)))


def materialised(uses: list[Factors], max_bytes: int, centered: bool) -> Tensor:
    """Gram matrix of the gradients themselves, made some rows of the parameter at a time.

    Args:
        uses: all uses of one parameter.
        max_bytes: for temporaries, as far as one row of the parameter allows; no more are taken
            than the GPU's cache holds.
        centered: subtract the mean gradient over the samples from each chunk first.

    Returns:
        (N, N) float64, symmetric.
    """
    from geomfast.kernels.gradient_gram.rank_kernel import add_gram, partial_sums

    uses = _in_one_type(uses)
    right, rows = uses[0].right, uses[0].rows
    samples, columns = len(right), right.shape[-1]
    # Half the cache: the kernels' own sums and the factors pass through it, too.
    max_bytes = min(max_bytes, _cache_bytes(right.device) // 2)
    one_hot = sum(use.length for use in uses if use.one_hot)
    step = max(1, min(rows, max_bytes // (right.itemsize * samples * (columns + one_hot))))
    gram = right.new_zeros((samples, samples), dtype=torch.float64)
    memory = right.new_zeros(samples * _round_up(step * columns))
    with launching_on(right.device):
        partial = partial_sums(right, samples, max_bytes, _multiprocessors(right.device))
        for first in range(0, rows, step):
            last = min(first + step, rows)
            entries = (last - first) * columns
            chunk = memory[: samples * _round_up(entries)].view(samples, -1)
            chunk[:, entries:] = 0.0
            gradients = chunk[:, :entries]
            for p, use in enumerate(uses):
                # beta=0 ignores what is there, NaN included.
                gradients.view(samples, -1, columns).baddbmm_(
                    use.left_columns(first, last).mT, use.right, beta=min(p, 1)
                )
            if centered:
                # In float64: a mean rounded to float32 is off by more than small deviations.
                gradients -= gradients.mean(0, dtype=torch.float64)
            add_gram(chunk, gram, partial)
    return _mirrored(gram)


def gram_of_rows(gradients: Tensor) -> Tensor:
    """(N, P) -> (N, N) float64; products in the input's own type, 16-bit ones in float32."""
    from geomfast.kernels.gradient_gram.rank_kernel import add_gram, partial_sums

    gradients = _aligned(gradients.to(_working_type(gradients.dtype)))
    samples = len(gradients)
    gram = gradients.new_zeros((samples, samples), dtype=torch.float64)
    with launching_on(gradients.device):
        multiprocessors = _multiprocessors(gradients.device)
        within = _cache_bytes(gradients.device) // 2
        add_gram(gradients, gram, partial_sums(gradients, samples, within, multiprocessors))
    return _mirrored(gram)


def _in_one_type(uses: list[Factors]) -> list[Factors]:
    dtypes = [use.right.dtype for use in uses] + [u.left.dtype for u in uses if not u.one_hot]
    dtype = _working_type(functools.reduce(torch.promote_types, dtypes))
    return [
        Factors(use.left if use.one_hot else use.left.to(dtype), use.right.to(dtype), use.rows)
        for use in uses
    ]


def _working_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _aligned(x: Tensor) -> Tensor:
    """x, or a copy that can be read 16 bytes at a time, zeros added to its last dimension.

    Narrower reads need more addresses than there are registers for.
    """
    *strides, last = x.stride()
    whole = all(number % _ALIGNMENT == 0 for number in (*strides, x.shape[-1], x.data_ptr()))
    if whole and last == 1:
        return x
    copy = x.new_zeros((*x.shape[:-1], _round_up(x.shape[-1])))
    copy[..., : x.shape[-1]] = x
    return copy


def _round_up(entries: int) -> int:
    return -(-entries // _ALIGNMENT) * _ALIGNMENT


def _mirrored(lower: Tensor) -> Tensor:
    return lower.tril() + lower.tril(-1).mT


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":  # the interpreter: a few, so that tests reach every split
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


def _cache_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return _CACHE_BYTES
    return getattr(torch.cuda.get_device_properties(device), "L2_cache_size", _CACHE_BYTES)
