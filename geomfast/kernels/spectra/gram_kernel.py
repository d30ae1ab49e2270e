"""Triton kernel: float64 Gram matrices of the smaller side of a batch of matrices.

Importing this module imports Triton; `geomfast.kernels.spectra.triton` does so when it is needed.
"""

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl

from geomfast.kernels.lower_tiles import lower_tile, lower_tiles

# 64 x 64 float64 results stay in registers; 128 x 128 spill.
_LARGEST_BLOCK = 64
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
    tiles,
    batch_stride,
    side_stride,
    long_stride,
    SCALED: tl.constexpr,
    MIRRORED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # Programs are numbered matrix by matrix.
    pairs = tiles * (tiles + 1) // 2
    matrix = (tl.program_id(0) // pairs).to(tl.int64)
    i, j = lower_tile(tl.program_id(0) % pairs)

    rows = i * BLOCK + tl.arange(0, BLOCK)
    columns = j * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, BLOCK_K).to(tl.int64)  # strides may take offsets beyond 32 bits
    advance = tl.full((), BLOCK_K, tl.int64) * long_stride
    base = x + matrix * batch_stride
    left = base + rows[:, None].to(tl.int64) * side_stride + k[None, :] * long_stride
    right = base + columns[None, :].to(tl.int64) * side_stride + k[:, None] * long_stride
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float64)
    for start in range(0, length, BLOCK_K):
        inside = k < length - start
        a = tl.load(left, mask=(rows < n)[:, None] & inside[None, :], other=0.0).to(tl.float64)
        b = tl.load(right, mask=(columns < n)[None, :] & inside[:, None], other=0.0).to(tl.float64)
        if SCALED:
            scale = tl.load(inverse_scale + matrix)
            a = a * scale
            b = b * scale
        total = tl.dot(a, b, total, out_dtype=tl.float64)
        left += advance
        right += advance

    out = gram + matrix * n * n
    valid = (rows < n)[:, None] & (columns < n)[None, :]
    tl.store(out + rows[:, None] * n + columns[None, :], total, mask=valid)
    if MIRRORED:
        tl.store(out + columns[None, :] * n + rows[:, None], total, mask=valid)


def block_for(n: int) -> int:
    """Side of a tile for Gram matrices of side n."""
    return min(_LARGEST_BLOCK, max(16, triton.next_power_of_2(n)))


def options_for(block: int, itemsize: int) -> dict[str, int | bool]:
    """Compiler options for tiles of this side, of input with so many bytes per entry.

    No choice of warps suits all: on sm_90 a large tile spills for float64 input with 8, for
    bfloat16 with 4 (tests/kernels/test_compiled.py looks).
    """
    warps = 8 if block == _LARGEST_BLOCK and itemsize < 8 else 4
    return {"num_warps": warps, "num_stages": 3, "enable_fp_fusion": True}


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
    block = block_for(n)
    tiles = triton.cdiv(n, block)
    launch: Any = _gram_kernel[(batch * lower_tiles(tiles),)]
    # Triton launches on the current device, which need not be x's.
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        launch(
            x,
            gram if inverse_scale is None else inverse_scale,
            gram,
            n,
            length,
            tiles,
            batch_stride,
            side,
            long,
            SCALED=inverse_scale is not None,
            MIRRORED=mirrored,
            BLOCK=block,
            BLOCK_K=_BLOCK_K,
            **options_for(block, x.itemsize),
        )
    return gram
