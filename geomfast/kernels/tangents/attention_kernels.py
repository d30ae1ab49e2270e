"""Triton kernels for tangents of causal attention and of its adjoints.

Importing this module imports Triton; `geomfast.kernels.tangents.triton` does so when it is needed.

The first axis of every grid numbers (probe, sample, head), the second blocks of queries or of keys;
a program goes through the others in a loop. What is known at the point lies (sample, head,
position, ...), contiguous; o and tangents lie (probe, sample, position, head, ...), with keys and
values side by side, as products with weights leave them.

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
def _place(samples, heads, n_queries, n_keys, width):
    """Where a program works: its head of a sample of the point, and number among all probes' heads.

    Then where that head begins in what has queries' positions before heads, and in what has keys
    and values, and how far apart the former's rows are. 64 bits wide.
    """
    number = tl.program_id(0).to(tl.int64)
    head, sample = number % heads, number // heads
    queries = (sample * n_queries * heads + head) * width
    keys = (sample * n_keys * 2 * heads + head) * width
    return (sample % samples) * heads + head, number, queries, keys, heads * width


@triton.jit
def _rows(base, row, rows, stride, column, columns):
    """A tile of rows ``stride`` entries apart; zero beyond the last row and column."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(base + row[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def _scores(row, n_queries, column, n_keys):
    """Offsets of a tile of (n_queries, n_keys) scores, and which of them causality allows."""
    allowed = (column[None, :] <= n_keys - n_queries + row[:, None]) & (row < n_queries)[:, None]
    return row[:, None] * n_keys + column[None, :], allowed


@triton.jit
def attention_tangent(
    q, k, v, p, o, q_dot, kv_dot, entries, sums, o_dot, samples, heads, n_queries, n_keys, width,
    ROWS: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    point, number, offset, kv_offset, row_stride = _place(samples, heads, n_queries, n_keys, width)
    row, e = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    keys = kv_dot + kv_offset
    queries = _rows(q + point * n_queries * width, row, n_queries, width, e, width)
    queries_dot = _rows(q_dot + offset, row, n_queries, row_stride, e, width)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    acc = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    last = tl.minimum(n_keys, n_keys - n_queries + (tl.program_id(1) + 1) * ROWS)
    for start in range(0, last, STEP):
        column = start + tl.arange(0, STEP)
        entry, allowed = _scores(row, n_queries, column, n_keys)
        part = tl.zeros((ROWS, STEP), dtype=tl.float32)
        b = _rows(k + point * n_keys * width, column, n_keys, width, e, width)
        part = _product(queries_dot, tl.trans(b), part)
        b = _rows(keys, column, n_keys, 2 * row_stride, e, width)
        part = _product(queries, tl.trans(b), part)
        chances = tl.load(p + point * n_queries * n_keys + entry, mask=allowed, other=0.0)
        part = part * chances
        total += tl.sum(part, 1)
        tl.store(entries + number * n_queries * n_keys + entry, part, mask=allowed)
        b = _rows(v + point * n_keys * width, column, n_keys, width, e, width)
        acc = _product(part, b, acc)
        b = _rows(keys + row_stride, column, n_keys, 2 * row_stride, e, width)
        acc = _product(chances, b, acc)
    tl.store(sums + number * n_queries + row, total, mask=row < n_queries)
    before = (point // heads * n_queries * heads + point % heads) * width
    acc -= total[:, None] * _rows(o + before, row, n_queries, row_stride, e, width)
    inside = (row < n_queries)[:, None] & (e < width)[None, :]
    tl.store(o_dot + offset + row[:, None] * row_stride + e[None, :], acc, mask=inside)


@triton.jit
def queries_adjoint_tangent(
    k, v, p, o_bar, s_bar, centered, kv_dot, entries, sums, o_bar_dot, entries_bar, sums_bar,
    q_bar_dot, samples, heads, n_queries, n_keys, width,
    ROWS: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    point, number, offset, kv_offset, row_stride = _place(samples, heads, n_queries, n_keys, width)
    row, e = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    keys = kv_dot + kv_offset
    at, scores = point * n_queries * n_keys, number * n_queries * n_keys
    bar = _rows(o_bar + point * n_queries * width, row, n_queries, width, e, width)
    bar_dot = _rows(o_bar_dot + offset, row, n_queries, row_stride, e, width)
    before = tl.load(sums + number * n_queries + row, mask=row < n_queries, other=0.0)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    acc = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    mean = tl.zeros((ROWS, WIDTH), dtype=tl.float32)  # of the keys, under p
    last = tl.minimum(n_keys, n_keys - n_queries + (tl.program_id(1) + 1) * ROWS)
    for start in range(0, last, STEP):
        column = start + tl.arange(0, STEP)
        entry, allowed = _scores(row, n_queries, column, n_keys)
        part = tl.zeros((ROWS, STEP), dtype=tl.float32)
        b = _rows(v + point * n_keys * width, column, n_keys, width, e, width)
        part = _product(bar_dot, tl.trans(b), part)
        b = _rows(keys + row_stride, column, n_keys, 2 * row_stride, e, width)
        part = _product(bar, tl.trans(b), part)
        chances = tl.load(p + at + entry, mask=allowed, other=0.0)
        part = part * chances
        p_dot = tl.load(entries + scores + entry, mask=allowed, other=0.0)
        p_dot -= before[:, None] * chances
        part += p_dot * tl.load(centered + at + entry, mask=allowed, other=0.0)
        total += tl.sum(part, 1)
        tl.store(entries_bar + scores + entry, part, mask=allowed)
        b = _rows(k + point * n_keys * width, column, n_keys, width, e, width)
        acc = _product(part, b, acc)
        mean = _product(chances, b, mean)
        b = _rows(keys, column, n_keys, 2 * row_stride, e, width)
        acc = _product(tl.load(s_bar + at + entry, mask=allowed, other=0.0), b, acc)
    tl.store(sums_bar + number * n_queries + row, total, mask=row < n_queries)
    acc -= total[:, None] * mean
    inside = (row < n_queries)[:, None] & (e < width)[None, :]
    tl.store(q_bar_dot + offset + row[:, None] * row_stride + e[None, :], acc, mask=inside)


@triton.jit
def keys_adjoint_tangent(
    q, p, o_bar, s_bar, q_dot, entries, sums, o_bar_dot, entries_bar, sums_bar, kv_bar_dot, samples,
    heads, n_queries, n_keys, width,
    ROWS: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    # Here a block of ROWS keys meets all queries, STEP of them at a time.
    point, number, offset, kv_offset, row_stride = _place(samples, heads, n_queries, n_keys, width)
    column, e = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    at, scores = point * n_queries * n_keys, number * n_queries * n_keys
    keys = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    values = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    first = tl.maximum(0, tl.program_id(1) * ROWS - (n_keys - n_queries)) // STEP * STEP
    for start in range(first, n_queries, STEP):
        row = start + tl.arange(0, STEP)
        entry, allowed = _scores(row, n_queries, column, n_keys)
        allowed = allowed & (column < n_keys)[None, :]
        chances = tl.load(p + at + entry, mask=allowed, other=0.0)
        a = tl.load(entries_bar + scores + entry, mask=allowed, other=0.0)
        total = tl.load(sums_bar + number * n_queries + row, mask=row < n_queries, other=0.0)
        a -= total[:, None] * chances
        b = _rows(q + point * n_queries * width, row, n_queries, width, e, width)
        keys = _product(tl.trans(a), b, keys)
        a = tl.load(s_bar + at + entry, mask=allowed, other=0.0)
        b = _rows(q_dot + offset, row, n_queries, row_stride, e, width)
        keys = _product(tl.trans(a), b, keys)
        a = tl.load(entries + scores + entry, mask=allowed, other=0.0)
        total = tl.load(sums + number * n_queries + row, mask=row < n_queries, other=0.0)
        a -= total[:, None] * chances
        b = _rows(o_bar + point * n_queries * width, row, n_queries, width, e, width)
        values = _product(tl.trans(a), b, values)
        b = _rows(o_bar_dot + offset, row, n_queries, row_stride, e, width)
        values = _product(tl.trans(chances), b, values)
    there = kv_bar_dot + kv_offset
    place = column[:, None] * 2 * row_stride + e[None, :]
    inside = (column < n_keys)[:, None] & (e < width)[None, :]
    tl.store(there + place, keys, mask=inside)
    tl.store(there + row_stride + place, values, mask=inside)


def tile_for(width: int) -> dict[str, int]:
    """A block of positions, a step of the others, and the width of a head."""
    return {"ROWS": ROWS, "STEP": STEP, "WIDTH": max(32, triton.next_power_of_2(width))}
