"""Triton kernel: the Gram matrix of long rows, a symmetric rank-k update shared out along k.

Importing this module imports Triton; `geomfast.kernels.gradient_gram.triton` does so when it is
needed.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from geomfast.kernels.lower_tiles import lower_tile, lower_tiles

# So many products are added up in the input's type before float64 takes over: in blocks of 32, so
# that float32 loses no more than by 128 additions.
_LONGEST_SUM = 4096
# Less is not worth the matrix of sums that it writes.
_SHORTEST_SUM = 128


@triton.jit
def _rank_kernel(
    x,
    partial,
    samples,
    length,
    stride,
    share,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # The first axis of the grid has the tiles on and below the diagonal, the second the shares of
    # the rows' length, each of which has a matrix of sums of its own.
    i, j = lower_tile(tl.program_id(0))
    begin = tl.program_id(1).to(tl.int64) * share
    r, k = tl.arange(0, BLOCK), tl.arange(0, BLOCK_K)
    i_sample, j_sample = i * BLOCK + r, j * BLOCK + r
    left = x + i_sample.to(tl.int64)[:, None] * stride + begin + k[None, :]
    right = x + j_sample.to(tl.int64)[:, None] * stride + begin + k[None, :]
    left_inside, right_inside = (i_sample < samples)[:, None], (j_sample < samples)[:, None]
    todo = tl.minimum(length - begin, share).to(tl.int32)
    total = tl.zeros((BLOCK, BLOCK), dtype=x.dtype.element_ty)
    for start in range(0, todo, BLOCK_K):
        inside = (k < todo - start)[None, :]
        a = tl.load(left, mask=left_inside & inside, other=0.0)
        b = tl.load(right, mask=right_inside & inside, other=0.0)
        # float64 has one precision; float32 takes three TF32 products, which keep its digits.
        total = tl.dot(a, tl.trans(b), total, input_precision="tf32x3", out_dtype=total.dtype)
        left += BLOCK_K
        right += BLOCK_K
    # One 64-bit start per tile, not one per entry: those would cost registers.
    start = (tl.program_id(1).to(tl.int64) * samples + i * BLOCK) * samples + j * BLOCK
    out = partial + start + (r[:, None] * samples + r[None, :])
    tl.store(out, total, mask=left_inside & (j_sample < samples)[None, :])


def options_for(samples: int, itemsize: int) -> dict[str, int | bool]:
    """Constants and compiler options for so many rows with so many bytes per entry.

    On sm_90 nothing spills with these, in Triton 3.6 and 3.9; float64 tiles of side 128 do.
    """
    # A large tile reads half as much for the same products, and pads more.
    largest = 128 if samples > 256 and itemsize < 8 else 64
    block = min(largest, max(16, triton.next_power_of_2(samples)))
    warps = 8 if block == 128 or (block == 64 and itemsize == 8) else 4
    block_k = 16 if itemsize == 8 else 32
    shape = {"BLOCK": block, "BLOCK_K": block_k}
    return shape | {"num_warps": warps, "num_stages": 3, "enable_fp_fusion": True}


def partial_sums(like: Tensor, samples: int, max_bytes: int, multiprocessors: int) -> Tensor:
    """(shares, N, N) for `add_gram` to work with: what keeps the GPU busy, or fits."""
    block = options_for(samples, like.itemsize)["BLOCK"]
    # Of the smaller tiles a multiprocessor holds two and more at a time.
    wanted = (
        (1 if block == 128 else 2) * multiprocessors // lower_tiles(triton.cdiv(samples, block))
    )
    fits = max_bytes // (like.itemsize * samples * samples)
    # Zeros, since nothing is written above the diagonal, but everything is added up.
    return like.new_zeros((max(1, min(wanted, fits)), samples, samples))


def add_gram(x: Tensor, gram: Tensor, partial: Tensor) -> None:
    """Adds x's Gram matrix, on and below the diagonal.

    Args:
        x: (N, K) float32 or float64, last stride 1.
        gram: (N, N) float64.
        partial: from `partial_sums`, overwritten.
    """
    samples = len(x)
    options = options_for(samples, x.itemsize)
    tiles = lower_tiles(triton.cdiv(samples, options["BLOCK"]))
    for part in x.split(len(partial) * _LONGEST_SUM, 1):
        length = part.shape[1]
        share = max(_SHORTEST_SUM, triton.cdiv(length, len(partial)))
        share = triton.cdiv(share, 32) * 32  # whole blocks, aligned for wide loads
        shares = triton.cdiv(length, share)
        launch: Any = _rank_kernel[(tiles, shares)]
        launch(part, partial, samples, length, x.stride(0), share, **options)
        gram += partial[:shares].sum(0, dtype=torch.float64)
