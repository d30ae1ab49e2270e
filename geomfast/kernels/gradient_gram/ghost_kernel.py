"""Triton kernel: ghost products, the Gram matrix of gradients from their two thin factors.

Importing this module imports Triton; `geomfast.kernels.gradient_gram.triton` does so when it is
needed.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from geomfast.kernels.gradient_gram.factors import Factors
from geomfast.kernels.lower_tiles import lower_tile, lower_tiles


@triton.jit
def _products(p, q, width, p_inside, q_inside, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    """(BLOCK, BLOCK): inner products of rows that start at the pointers p with those at q."""
    k = tl.arange(0, BLOCK_K)
    left, right = p[:, None] + k[None, :], q[:, None] + k[None, :]
    total = tl.zeros((BLOCK, BLOCK), dtype=p.dtype.element_ty)
    for start in range(0, width, BLOCK_K):
        inside = (k < width - start)[None, :]
        a = tl.load(left, mask=p_inside[:, None] & inside, other=0.0)
        b = tl.load(right, mask=q_inside[:, None] & inside, other=0.0)
        # float64 has one precision; float32 takes three TF32 products, which keep its digits.
        total = tl.dot(a, tl.trans(b), total, input_precision="tf32x3", out_dtype=total.dtype)
        left += BLOCK_K
        right += BLOCK_K
    return total


@triton.jit
def _ghost_kernel(
    p_left,
    p_right,
    q_left,
    q_right,
    partial,
    samples,
    first,
    p_length,
    q_length,
    rows,
    columns,
    p_left_sample,
    p_left_position,
    p_right_sample,
    p_right_position,
    q_left_sample,
    q_left_position,
    q_right_sample,
    q_right_position,
    P_ONE_HOT: tl.constexpr,
    Q_ONE_HOT: tl.constexpr,
    BLOCK: tl.constexpr,
    POSITIONS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # A tile has BLOCK (sample, position) pairs of p against as many of q: SAMPLES samples each,
    # and one block of POSITIONS positions. The second axis of the grid has pairs of such blocks,
    # each of which adds to a matrix of its own.
    SAMPLES: tl.constexpr = BLOCK // POSITIONS
    i, j = lower_tile(tl.program_id(0))
    slot = tl.program_id(1)
    q_blocks = tl.cdiv(q_length, POSITIONS)
    p_block, q_block = (first + slot) // q_blocks, (first + slot) % q_blocks
    r = tl.arange(0, BLOCK)
    p_sample, q_sample = i * SAMPLES + r // POSITIONS, j * SAMPLES + r // POSITIONS
    t, s = p_block * POSITIONS + r % POSITIONS, q_block * POSITIONS + r % POSITIONS
    p_inside = (p_sample < samples) & (t < p_length)
    q_inside = (q_sample < samples) & (s < q_length)
    p_sample, q_sample = p_sample.to(tl.int64), q_sample.to(tl.int64)
    rights = _products(
        p_right + p_sample * p_right_sample + t.to(tl.int64) * p_right_position,
        q_right + q_sample * q_right_sample + s.to(tl.int64) * q_right_position,
        columns,
        p_inside,
        q_inside,
        BLOCK,
        BLOCK_K,
    )
    p_start = p_left + p_sample * p_left_sample + t.to(tl.int64) * p_left_position
    q_start = q_left + q_sample * q_left_sample + s.to(tl.int64) * q_left_position
    both = p_inside[:, None] & q_inside[None, :]
    # Products with zeros, too, so that NaN stays NaN.
    if P_ONE_HOT and Q_ONE_HOT:
        p_row = tl.load(p_start, mask=p_inside, other=0)
        q_row = tl.load(q_start, mask=q_inside, other=0)
        lefts = (p_row[:, None] == q_row[None, :]).to(rights.dtype)
    elif P_ONE_HOT:
        p_row = tl.load(p_start, mask=p_inside, other=0)
        lefts = tl.load(q_start[None, :] + p_row[:, None], mask=both, other=0.0)
    elif Q_ONE_HOT:
        q_row = tl.load(q_start, mask=q_inside, other=0)
        lefts = tl.load(p_start[:, None] + q_row[None, :], mask=both, other=0.0)
    else:
        lefts = _products(p_start, q_start, rows, p_inside, q_inside, BLOCK, BLOCK_K)
    # In float32 along a row of the tile, in float64 from there, which saves registers.
    terms = tl.reshape(lefts * rights, (SAMPLES, POSITIONS, SAMPLES, POSITIONS))
    sums = tl.sum(tl.sum(terms, 3).to(tl.float64), 1)

    # Every entry has one owner, and launches follow each other: the same bits every time.
    # One 64-bit start per tile, not one per entry: those would cost registers.
    c = tl.arange(0, SAMPLES)
    start = (slot.to(tl.int64) * samples + i * SAMPLES) * samples + j * SAMPLES
    out = partial + start + (c[:, None] * samples + c[None, :])
    valid = (i * SAMPLES + c < samples)[:, None] & (j * SAMPLES + c < samples)[None, :]
    tl.store(out, tl.load(out, mask=valid) + sums, mask=valid)


class Plan(NamedTuple):
    """How one use is multiplied with another.

    Attributes:
        block: (sample, position) pairs on a side of a tile.
        positions: of a sample in a tile.
        tiles: of samples, on and below the diagonal.
        pairs: of blocks of positions.
    """

    block: int
    positions: int
    tiles: int
    pairs: int


def plan(p: Factors, q: Factors, multiprocessors: int) -> Plan:
    """The plan with the fewest programs' worth of padding that keeps the GPU busy."""
    small = _plan(p, q, 64, 1)
    # Gathered entries and float64 results fill the registers of a large tile, and so do results
    # for every pair of its rows, positions=1 (tests/kernels/test_compiled.py looks).
    if p.one_hot != q.one_hot or p.right.dtype == torch.float64:
        return small
    large = _plan(p, q, 128, 2)
    # A large tile reads half as much for the same products; a quarter more of them is worth it.
    pays = 4 * large.tiles * large.pairs <= 1.25 * small.tiles * small.pairs
    return large if pays and large.tiles * large.pairs >= multiprocessors else small


def _plan(p: Factors, q: Factors, block: int, fewest: int) -> Plan:
    samples, plans = len(p.right), []
    positions = fewest
    while positions <= block:
        pairs = triton.cdiv(p.length, positions) * triton.cdiv(q.length, positions)
        tiles = lower_tiles(triton.cdiv(samples * positions, block))
        plans.append(Plan(block, positions, tiles, pairs))
        positions *= 2
    return min(plans, key=lambda found: (found.tiles * found.pairs, -found.positions))


def options_for(block: int, itemsize: int) -> dict[str, int | bool]:
    """Constants and compiler options for a tile of factors with so many bytes per entry.

    On sm_90 nothing spills with these, in Triton 3.6 and 3.9; a large tile with BLOCK_K=32 and a
    float64 one with 4 warps do.
    """
    warps = 4 if block == 64 and itemsize < 8 else 8
    block_k = 32 if block == 64 and itemsize < 8 else 16
    return {"BLOCK_K": block_k, "num_warps": warps, "num_stages": 3, "enable_fp_fusion": True}


def ghost_products(uses: list[Factors], max_bytes: int, multiprocessors: int) -> Tensor:
    """Gram matrix of the gradients that the uses of one parameter add up to.

    Args:
        uses: all float32 or all float64; factors' last strides 1. Zeros may have been added to
            the last dimension of all left factors, and of all right ones.
        max_bytes: for partial sums, as far as one matrix of them allows.
        multiprocessors: of the GPU.

    Returns:
        (N, N) float64, right on and below the diagonal only.
    """
    samples = len(uses[0].right)
    plans = [(p, q, plan(p, q, multiprocessors)) for p in uses for q in uses]
    # One matrix of sums is enough where the samples alone make enough tiles.
    wanted = max(
        min(found.pairs, triton.cdiv(2 * multiprocessors, found.tiles)) for _, _, found in plans
    )
    slots = max(1, min(wanted, max_bytes // (8 * samples * samples)))
    partial = uses[0].right.new_zeros((slots, samples, samples), dtype=torch.float64)
    for p, q, found in plans:
        for first in range(0, found.pairs, slots):
            _launch(p, q, partial, found, first, min(slots, found.pairs - first))
    return partial[0] if slots == 1 else partial.sum(0)


def _launch(p: Factors, q: Factors, partial: Tensor, found: Plan, first: int, pairs: int) -> None:
    launch: Any = _ghost_kernel[(found.tiles, pairs)]
    launch(
        p.left,
        p.right,
        q.left,
        q.right,
        partial,
        len(p.right),
        first,
        p.length,
        q.length,
        p.left.shape[-1],  # of dense factors, which may have zeros added
        p.right.shape[-1],
        *p.left.stride()[:2],
        *p.right.stride()[:2],
        *q.left.stride()[:2],
        *q.right.stride()[:2],
        P_ONE_HOT=p.one_hot,
        Q_ONE_HOT=q.one_hot,
        BLOCK=found.block,
        POSITIONS=found.positions,
        **options_for(found.block, p.right.itemsize),
    )
