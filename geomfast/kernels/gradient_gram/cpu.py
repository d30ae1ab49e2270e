"""Backend "cpu": the C++ kernels of csrc/, threads over tiles of the Gram matrix.

`GEOMFAST_ISA` picks the instruction set, as for the spectra. A sum's order does not depend on the
number of threads.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from geomfast.kernels.backends import native_module
from geomfast.kernels.gradient_gram.factors import Factors, whole

_DTYPES = {torch.float32: 0, torch.float64: 1}
# Multiply-adds of the Gram matrix below which starting a thread costs more than it saves.
_WORTH_A_THREAD = 1 << 26
_ROW_BYTES = 16 << 20  # packed at a time where gradients are given whole


def ghost(uses: list[Factors], max_bytes: int) -> Tensor:
    """K_ij = sum_ts (left_it . left_js) (right_it . right_js), never forming a gradient.

    Args:
        uses: all uses of one parameter; N samples each, on the CPU.
        max_bytes: for packed factors, as far as two tiles' worth of samples allow.

    Returns:
        (N, N) float64, symmetric.
    """
    return _gram(uses, "ghost", max_bytes)


def materialised(uses: list[Factors], max_bytes: int, centered: bool) -> Tensor:
    """Gram matrix of the gradients themselves, made a chunk that fits the cache at a time.

    Args:
        uses: all uses of one parameter, on the CPU.
        max_bytes: for packed factors, as far as those of 64 rows and 64 columns allow.
        centered: subtract the mean gradient over the samples from each chunk first.

    Returns:
        (N, N) float64, symmetric.
    """
    return _gram(uses, "centred" if centered else "materialised", max_bytes)


def gram_of_rows(gradients: Tensor) -> Tensor:
    """(N, P) on the CPU -> (N, N) float64; 16-bit input is multiplied in float32."""
    return _gram([whole(gradients)], "materialised", _ROW_BYTES)


def _gram(uses: list[Factors], way: str, max_bytes: int) -> Tensor:
    right = uses[0].right
    samples, columns = right.shape[0], right.shape[-1]
    dtype = torch.float64 if any(_is_double(use) for use in uses) else torch.float32
    gram = torch.empty((samples, samples), dtype=torch.float64, device="cpu")
    # The tensors whose addresses are handed over have to outlive the call.
    prepared = [_prepared(use, dtype) for use in uses if use.length > 0]
    if gram.numel() == 0 or not prepared or columns == 0:
        return gram.zero_()
    work = samples * samples * uses[0].rows * columns
    native_module("_cpu").gradient_gram(
        uses=[_described(*use) for use in prepared],
        dtype=_DTYPES[dtype],
        samples=samples,
        rows=uses[0].rows,
        columns=columns,
        way=way,
        max_bytes=max_bytes,
        out=gram.data_ptr(),
        threads=torch.get_num_threads() if work > _WORTH_A_THREAD else 1,
        isa=os.environ.get("GEOMFAST_ISA", ""),
    )
    return gram


def _is_double(use: Factors) -> bool:
    return torch.float64 in (use.left.dtype, use.right.dtype)


def _prepared(use: Factors, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Factors with contiguous rows of one type, or contiguous indices."""
    if use.one_hot:
        return use.left.long().contiguous(), _with_rows(use.right, dtype)
    return _with_rows(use.left, dtype), _with_rows(use.right, dtype)


def _with_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    x = x.detach().to(dtype)
    return x if x.stride(-1) == 1 else x.contiguous()


def _described(left: Tensor, right: Tensor) -> tuple[Any, ...]:
    """A use as the native module takes it."""
    one_hot = left.dim() == 2  # as indices are
    matrix = (0, 0, 0) if one_hot else _addressed(left)
    return matrix, left.data_ptr() if one_hot else 0, _addressed(right), right.shape[1]


def _addressed(x: Tensor) -> tuple[int, int, int]:
    return x.data_ptr(), x.stride(0), x.stride(1)
