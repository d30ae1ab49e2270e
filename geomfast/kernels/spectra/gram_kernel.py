"""Triton kernel: float64 Gram matrices of the smaller side of a batch of matrices.

Importing this module imports Triton; `geomfast.kernels.spectra.triton` does so when it is needed.
"""

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl

from geomfast.kernels.lower_tiles import lower_tile
from geomfast.kernels.spectra.gram_tiles import Tiling, tile_for

_BLOCK_K = 16

# Triton 3.6 fails to compile 16-bit input on its way into a float64 product ("fp64 don't support
# largeK MMA"); 3.9 compiles it. Those between were not tried.
_READS_16_BITS = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)


@triton.jit
def _gram_kernel(
    x,
    inverse_scale,
    gram,
    n,
    length,
    squares,
    batch_stride,
    side_stride,
    long_stride,
    SCALED: tl.constexpr,
    MIRRORED: tl.constexpr,
    WIDE: tl.constexpr,
    ALONE: tl.constexpr,
    BLOCK: tl.constexpr,
    STRIP: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # Programs are numbered matrix by matrix, in each the squares first, then the strip's pieces.
    lower = squares * (squares + 1) // 2
    programs = lower
    if STRIP > 0:
        programs += tl.cdiv(n, 2 * BLOCK)
    matrix = (tl.program_id(0) // programs).to(tl.int64)
    number = tl.program_id(0) % programs
    i, j = lower_tile(number)
    x += matrix * batch_stride
    gram += matrix * n * n
    scale = 1.0
    if SCALED:
        scale = tl.load(inverse_scale + matrix)
    if ALONE or ((i == j) & (number < lower)):
        _on_diagonal(
            *(x, gram, scale, i * BLOCK + tl.arange(0, BLOCK), n),
            *(length, side_stride, long_stride, SCALED, WIDE, BLOCK_K),
        )
    elif STRIP == 0 or number < lower:
        _below_diagonal(
            *(x, gram, scale, i * BLOCK + tl.arange(0, BLOCK), j * BLOCK + tl.arange(0, BLOCK), n),
            *(length, side_stride, long_stride, SCALED, MIRRORED, WIDE, BLOCK_K),
        )
    else:
        rows = squares * BLOCK + tl.arange(0, STRIP)
        columns = (number - lower) * (2 * BLOCK) + tl.arange(0, 2 * BLOCK)
        _below_diagonal(
            *(x, gram, scale, rows, columns, n),
            *(length, side_stride, long_stride, SCALED, MIRRORED, WIDE, BLOCK_K),
        )


@triton.jit
def _on_diagonal(
    x,
    gram,
    scale,
    rows,
    n,
    length,
    side_stride,
    long_stride,
    SCALED: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A square whose two operands are the same rows, which are read once."""
    k = tl.arange(0, BLOCK_K)
    at = _offsets(rows, side_stride, WIDE)[:, None] + _offsets(k, long_stride, WIDE)[None, :]
    advance = tl.full((), BLOCK_K, tl.int64) * long_stride
    total = tl.zeros((rows.shape[0], rows.shape[0]), dtype=tl.float64)
    for start in range(0, length, BLOCK_K):
        inside = (rows < n)[:, None] & (k < length - start)[None, :]
        a = _entries(x + at, inside, scale, SCALED)
        total = tl.dot(a, tl.trans(a), total, out_dtype=tl.float64)
        x += advance
    _store(gram, total, rows, rows, n, tl.constexpr(False))  # it has both its triangles


@triton.jit
def _below_diagonal(
    x,
    gram,
    scale,
    rows,
    columns,
    n,
    length,
    side_stride,
    long_stride,
    SCALED: tl.constexpr,
    MIRRORED: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A rectangle of some rows and some columns."""
    k = tl.arange(0, BLOCK_K)
    along = _offsets(k, long_stride, WIDE)
    left = _offsets(rows, side_stride, WIDE)[:, None] + along[None, :]
    right = _offsets(columns, side_stride, WIDE)[None, :] + along[:, None]
    advance = tl.full((), BLOCK_K, tl.int64) * long_stride
    total = tl.zeros((rows.shape[0], columns.shape[0]), dtype=tl.float64)
    for start in range(0, length, BLOCK_K):
        inside = k < length - start
        a = _entries(x + left, (rows < n)[:, None] & inside[None, :], scale, SCALED)
        b = _entries(x + right, (columns < n)[None, :] & inside[:, None], scale, SCALED)
        total = tl.dot(a, b, total, out_dtype=tl.float64)
        x += advance
    _store(gram, total, rows, columns, n, MIRRORED)


@triton.jit
def _offsets(numbers, stride, WIDE: tl.constexpr):
    return (numbers.to(tl.int64) if WIDE else numbers) * stride


@triton.jit
def _entries(x, inside, scale, SCALED: tl.constexpr):
    entries = tl.load(x, mask=inside, other=0.0).to(tl.float64)
    if SCALED:
        entries = entries * scale
    return entries


@triton.jit
def _store(gram, total, rows, columns, n, MIRRORED: tl.constexpr):
    valid = (rows < n)[:, None] & (columns < n)[None, :]
    tl.store(gram + rows[:, None] * n + columns[None, :], total, mask=valid)
    if MIRRORED:
        tl.store(gram + columns[None, :] * n + rows[:, None], total, mask=valid)


def constants_for(tiling: Tiling) -> dict[str, int | bool]:
    """The kernel's constants that follow from a tiling."""
    return {
        "ALONE": tiling.alone,
        "BLOCK": tiling.block,
        "STRIP": tiling.strip,
        "BLOCK_K": _BLOCK_K,
    }


def options_for(tiling: Tiling) -> dict[str, int | bool]:
    """Compiler options for a tiling."""
    return {"num_warps": tiling.warps, "num_stages": 3, "enable_fp_fusion": True}


def gram_matrices(
    x: torch.Tensor, inverse_scale: torch.Tensor | None, mirrored: bool
) -> torch.Tensor:
    """Gram matrices of the smaller side, in float64.

    Args:
        x: (B, N, d), B, N, d >= 1; any floating-point type, any strides. Converted on the way.
        inverse_scale: (B,) float64 that multiplies each matrix; None for 1.
        mirrored: write the upper triangle too; otherwise it holds anything.

    Returns:
        (B, n, n) float64 with n = min(N, d): X X^T for N <= d, else X^T X.
    """
    if x.dtype in (torch.bfloat16, torch.float16) and not _READS_16_BITS:
        x = x.float()  # exact
    batch, samples, width = x.shape
    batch_stride, row_stride, column_stride = x.stride()
    n, length = min(samples, width), max(samples, width)
    side, long = (row_stride, column_stride) if samples <= width else (column_stride, row_stride)
    gram = torch.empty((batch, n, n), dtype=torch.float64, device=x.device)
    tiling = tile_for(n, x.itemsize)
    # Offsets of 64 bits would fill registers that only views of enormous tensors need.
    wide = tiling.rows_padded * side + _BLOCK_K * long >= 2**31
    launch: Any = _gram_kernel[(batch * tiling.programs,)]
    # Triton launches on the current device, which need not be x's.
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        launch(
            x,
            gram if inverse_scale is None else inverse_scale,
            gram,
            n,
            length,
            tiling.squares,
            batch_stride,
            side,
            long,
            SCALED=inverse_scale is not None,
            MIRRORED=mirrored,
            WIDE=wide,
            **constants_for(tiling),
            **options_for(tiling),
        )
    return gram
