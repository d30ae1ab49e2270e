"""Triton kernels for tangents of causal attention and of its adjoints.

Importing this module imports Triton; `geomfast.kernels.tangents.triton` does so when it is needed.

The first axis of every grid numbers (probe, sample, head), the second blocks of asking or of asked
positions; a program goes through the others in a loop. What is known at the point lies (sample,
head, position, ...), contiguous; o and tangents lie (probe, sample, position, head, ...), with keys
and values side by side, as products with weights leave them.

Softmax wants sums over a row before any of its entries is final. As all that follows is linear in
them, the loops go once, and what the sum is needed for is subtracted at the end; the tangents of
probabilities and scores are kept as pairs (entries, sums), which stand for entries - sum * p.
"""

import triton
import triton.language as tl

#: Width of the widest head.
WIDEST = 64
#: Positions of a program, and of a step of its loop. With more of either, fewer warps, or loads
#: ahead of the loop, registers spill on sm_90 (tests/kernels/test_compiled.py looks).
ROWS, STEP = 32, 16
OPTIONS = {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": True}


@triton.jit
def _product(a, b, total):
    # Three TF32 products keep the digits of float32.
    return tl.dot(a, b, total, input_precision="tf32x3")


@triton.jit
def _place(samples, heads):
    """Which head of which sample of the point, sample of a probe, and head; 64 bits wide."""
    number = tl.program_id(0).to(tl.int64)
    head, sample = number % heads, number // heads
    return (sample % samples) * heads + head, sample, head


@triton.jit
def _rows(base, row, rows, stride, column, columns):
    """A tile of rows so many entries apart; zero beyond the last row and column."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(base + row[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def _scores(row, asking, column, asked):
    """Offsets of a tile of (asking, asked) scores, and which of them causality allows."""
    allowed = (column[None, :] <= asked - asking + row[:, None]) & (row < asking)[:, None]
    return row[:, None] * asked + column[None, :], allowed


@triton.jit
def attention_tangent(
    q,
    k,
    v,
    p,
    o,
    q_dot,
    kv_dot,
    entries,
    sums,
    o_dot,
    samples,
    heads,
    asking,
    asked,
    width,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    WIDTH: tl.constexpr,
):
    known, sample, head = _place(samples, heads)
    number = tl.program_id(0).to(tl.int64)
    row, e = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    apart = heads * width
    here = (sample * asking * heads + head) * width
    keys = kv_dot + (sample * asked * 2 * heads + head) * width
    queries = _rows(q + known * asking * width, row, asking, width, e, width)
    queries_dot = _rows(q_dot + here, row, asking, apart, e, width)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    found = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    last = tl.minimum(asked, asked - asking + (tl.program_id(1) + 1) * ROWS)
    for start in range(0, last, STEP):
        column = start + tl.arange(0, STEP)
        entry, allowed = _scores(row, asking, column, asked)
        part = tl.zeros((ROWS, STEP), dtype=tl.float32)
        b = _rows(k + known * asked * width, column, asked, width, e, width)
        part = _product(queries_dot, tl.trans(b), part)
        b = _rows(keys, column, asked, 2 * apart, e, width)
        part = _product(queries, tl.trans(b), part)
        chances = tl.load(p + known * asking * asked + entry, mask=allowed, other=0.0)
        part = part * chances
        total += tl.sum(part, 1)
        tl.store(entries + number * asking * asked + entry, part, mask=allowed)
        b = _rows(v + known * asked * width, column, asked, width, e, width)
        found = _product(part, b, found)
        b = _rows(keys + apart, column, asked, 2 * apart, e, width)
        found = _product(chances, b, found)
    tl.store(sums + number * asking + row, total, mask=row < asking)
    before = (known // heads * asking * heads + head) * width
    found -= total[:, None] * _rows(o + before, row, asking, apart, e, width)
    inside = (row < asking)[:, None] & (e < width)[None, :]
    tl.store(o_dot + here + row[:, None] * apart + e[None, :], found, mask=inside)


@triton.jit
def queries_adjoint_tangent(
    k,
    v,
    p,
    o_bar,
    s_bar,
    centered,
    kv_dot,
    entries,
    sums,
    o_bar_dot,
    entries_bar,
    sums_bar,
    q_bar_dot,
    samples,
    heads,
    asking,
    asked,
    width,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    WIDTH: tl.constexpr,
):
    known, sample, head = _place(samples, heads)
    number = tl.program_id(0).to(tl.int64)
    row, e = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    apart = heads * width
    here = (sample * asking * heads + head) * width
    keys = kv_dot + (sample * asked * 2 * heads + head) * width
    at, scores = known * asking * asked, number * asking * asked
    bar = _rows(o_bar + known * asking * width, row, asking, width, e, width)
    bar_dot = _rows(o_bar_dot + here, row, asking, apart, e, width)
    before = tl.load(sums + number * asking + row, mask=row < asking, other=0.0)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    found = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    mean = tl.zeros((ROWS, WIDTH), dtype=tl.float32)  # of the keys, under p
    last = tl.minimum(asked, asked - asking + (tl.program_id(1) + 1) * ROWS)
    for start in range(0, last, STEP):
        column = start + tl.arange(0, STEP)
        entry, allowed = _scores(row, asking, column, asked)
        part = tl.zeros((ROWS, STEP), dtype=tl.float32)
        b = _rows(v + known * asked * width, column, asked, width, e, width)
        part = _product(bar_dot, tl.trans(b), part)
        b = _rows(keys + apart, column, asked, 2 * apart, e, width)
        part = _product(bar, tl.trans(b), part)
        chances = tl.load(p + at + entry, mask=allowed, other=0.0)
        part = part * chances
        p_dot = tl.load(entries + scores + entry, mask=allowed, other=0.0)
        p_dot -= before[:, None] * chances
        part += p_dot * tl.load(centered + at + entry, mask=allowed, other=0.0)
        total += tl.sum(part, 1)
        tl.store(entries_bar + scores + entry, part, mask=allowed)
        b = _rows(k + known * asked * width, column, asked, width, e, width)
        found = _product(part, b, found)
        mean = _product(chances, b, mean)
        b = _rows(keys, column, asked, 2 * apart, e, width)
        found = _product(tl.load(s_bar + at + entry, mask=allowed, other=0.0), b, found)
    tl.store(sums_bar + number * asking + row, total, mask=row < asking)
    found -= total[:, None] * mean
    inside = (row < asking)[:, None] & (e < width)[None, :]
    tl.store(q_bar_dot + here + row[:, None] * apart + e[None, :], found, mask=inside)


@triton.jit
def keys_adjoint_tangent(
    q,
    p,
    o_bar,
    s_bar,
    q_dot,
    entries,
    sums,
    o_bar_dot,
    entries_bar,
    sums_bar,
    kv_bar_dot,
    samples,
    heads,
    asking,
    asked,
    width,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    WIDTH: tl.constexpr,
):
    # Here a block of ROWS asked positions meets all that ask, STEP of them at a time.
    known, sample, head = _place(samples, heads)
    number = tl.program_id(0).to(tl.int64)
    column, e = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    apart = heads * width
    here = (sample * asking * heads + head) * width
    at, scores = known * asking * asked, number * asking * asked
    keys = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    values = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    first = tl.maximum(0, tl.program_id(1) * ROWS - (asked - asking)) // STEP * STEP
    for start in range(first, asking, STEP):
        row = start + tl.arange(0, STEP)
        entry, allowed = _scores(row, asking, column, asked)
        allowed = allowed & (column < asked)[None, :]
        chances = tl.load(p + at + entry, mask=allowed, other=0.0)
        a = tl.load(entries_bar + scores + entry, mask=allowed, other=0.0)
        total = tl.load(sums_bar + number * asking + row, mask=row < asking, other=0.0)
        a -= total[:, None] * chances
        b = _rows(q + known * asking * width, row, asking, width, e, width)
        keys = _product(tl.trans(a), b, keys)
        a = tl.load(s_bar + at + entry, mask=allowed, other=0.0)
        b = _rows(q_dot + here, row, asking, apart, e, width)
        keys = _product(tl.trans(a), b, keys)
        a = tl.load(entries + scores + entry, mask=allowed, other=0.0)
        total = tl.load(sums + number * asking + row, mask=row < asking, other=0.0)
        a -= total[:, None] * chances
        b = _rows(o_bar + known * asking * width, row, asking, width, e, width)
        values = _product(tl.trans(a), b, values)
        b = _rows(o_bar_dot + here, row, asking, apart, e, width)
        values = _product(tl.trans(chances), b, values)
    there = kv_bar_dot + (sample * asked * 2 * heads + head) * width
    place = column[:, None] * 2 * apart + e[None, :]
    inside = (column < asked)[:, None] & (e < width)[None, :]
    tl.store(there + place, keys, mask=inside)
    tl.store(there + apart + place, values, mask=inside)


def tile_for(width: int) -> dict[str, int]:
    """A block of positions, a step of the others, and the width of a head."""
    return {"ROWS": ROWS, "STEP": STEP, "WIDTH": max(32, triton.next_power_of_2(width))}
