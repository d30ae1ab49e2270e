"""Triton kernels for tangents that need one row at a time: LayerNorm, GELU, cross-entropy.

Importing this module imports Triton; `geomfast.kernels.tangents.triton` does so when it is needed.
The second axis of every grid is the probe: what is known at the point has no such axis, and stays
in the L2 cache from one probe to the next.
"""

import triton
import triton.language as tl

#: Entries of a tile of rows, 16 in each of 128 threads; and of a block where there are no rows.
TILE = 2048
BLOCK = 1024
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def _tile(rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Row numbers, offsets of a tile's entries in a (rows, width) matrix, and which exist."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    return row, row.to(tl.int64)[:, None] * width + column[None, :], inside


@triton.jit
def norm_tangent(
    normed, rstd, pulled, x_dot, normed_dot, along, against, rows, width,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, entry, inside = _tile(rows, width, ROWS, BLOCK)
    probe = tl.program_id(1).to(tl.int64)
    shift = probe * rows * width
    n = tl.load(normed + entry, mask=inside, other=0.0)
    c = tl.load(pulled + entry, mask=inside, other=0.0)
    x = tl.load(x_dot + shift + entry, mask=inside, other=0.0)
    r = tl.load(rstd + row, mask=row < rows, other=0.0)
    mean = tl.sum(x, 1) / width
    by_normed = tl.sum(n * x, 1) / width
    by_pulled = tl.sum(c * x, 1) / width
    found = r[:, None] * (x - mean[:, None] - n * by_normed[:, None])
    tl.store(normed_dot + shift + entry, found, mask=inside)
    tl.store(along + probe * rows + row, by_normed, mask=row < rows)
    tl.store(against + probe * rows + row, by_pulled, mask=row < rows)


@triton.jit
def norm_adjoint_tangent(
    normed, rstd, pulled, overlap, normed_dot, along, against, a_dot, out, rows, width,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, entry, inside = _tile(rows, width, ROWS, BLOCK)
    probe = tl.program_id(1).to(tl.int64)
    shift = probe * rows * width
    n = tl.load(normed + entry, mask=inside, other=0.0)
    a = tl.load(a_dot + shift + entry, mask=inside, other=0.0)
    r = tl.load(rstd + row, mask=row < rows, other=0.0)
    o = tl.load(overlap + row, mask=row < rows, other=0.0)
    s = tl.load(along + probe * rows + row, mask=row < rows, other=0.0)
    g = tl.load(against + probe * rows + row, mask=row < rows, other=0.0)
    mean = tl.sum(a, 1) / width
    by_normed = tl.sum(n * a, 1) / width + g
    found = a - mean[:, None] - n * by_normed[:, None]
    found -= s[:, None] * tl.load(pulled + entry, mask=inside, other=0.0)
    found -= o[:, None] * tl.load(normed_dot + shift + entry, mask=inside, other=0.0)
    before = tl.load(out + shift + entry, mask=inside, other=0.0)
    tl.store(out + shift + entry, before + r[:, None] * found, mask=inside)


@triton.jit
def gelu_tangent(slope, h_dot, y_dot, size, BLOCK: tl.constexpr):
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    shift = tl.program_id(1).to(tl.int64) * size
    inside = entry < size
    s = tl.load(slope + entry, mask=inside)
    tl.store(y_dot + shift + entry, s * tl.load(h_dot + shift + entry, mask=inside), mask=inside)


@triton.jit
def gelu_adjoint_tangent(slope, curve, h_dot, y_bar_dot, h_bar_dot, size, BLOCK: tl.constexpr):
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    shift = tl.program_id(1).to(tl.int64) * size
    inside = entry < size
    s = tl.load(slope + entry, mask=inside)
    c = tl.load(curve + entry, mask=inside)
    found = s * tl.load(y_bar_dot + shift + entry, mask=inside)
    found += c * tl.load(h_dot + shift + entry, mask=inside)
    tl.store(h_bar_dot + shift + entry, found, mask=inside)


@triton.jit
def softmax_hessian_product(
    p, weight, z_dot, out, rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    row, entry, inside = _tile(rows, width, ROWS, BLOCK)
    shift = tl.program_id(1).to(tl.int64) * rows * width
    q = tl.load(p + entry, mask=inside, other=0.0)
    z = tl.load(z_dot + shift + entry, mask=inside, other=0.0)
    w = tl.load(weight + row, mask=row < rows, other=0.0)
    found = w[:, None] * q * (z - tl.expand_dims(tl.sum(q * z, 1), 1))
    tl.store(out + shift + entry, found, mask=inside)


def tile_for(width: int) -> dict[str, int]:
    """Sides of a tile that holds whole rows of so many entries."""
    block = triton.next_power_of_2(width)
    return {"ROWS": max(1, TILE // block), "BLOCK": block}
