"""Numbering of the tiles on and below the diagonal of a square matrix, for Triton kernels."""

import triton
import triton.language as tl


@triton.jit
def lower_tile(number):
    """Row and column of a tile: 0, 1, 2, 3, ... are (0, 0), (1, 0), (1, 1), (2, 0), ..."""
    # The root in float32 may be one off, for which two tests make up.
    i = ((tl.sqrt(8.0 * number.to(tl.float32) + 1.0) - 1.0) / 2.0).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > number, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= number, i + 1, i)
    return i, number - i * (i + 1) // 2


def lower_tiles(side: int) -> int:
    """How many tiles lie on and below the diagonal of a matrix of side x side tiles."""
    return side * (side + 1) // 2
