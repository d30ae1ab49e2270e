"""Triton kernels of Langevin steps and their noise.

Importing this module imports Triton; `geomfast.kernels.sgld.triton` does so when it is needed.
Products and sums are not fused (`enable_fp_fusion`), and roots and quotients are rounded correctly:
the noise has the same bits as on the CPU.
"""

import triton
import triton.language as tl

from geomfast.kernels.sgld.philox import GROUP

#: Groups of 128 entries that one program takes: 16 entries a thread, of four counters that follow
#: each other, so that a thread's entries are four times four in a row: 16 bytes.
GROUPS = 4
# One warp: what it adds up needs no shared memory, and so no barrier.
OPTIONS = {"num_warps": 1, "enable_fp_fusion": False}
# Whatever these are, one compiled kernel does; Triton would make one more for 1 or for 16.
ANY_VALUE = ("seed_low", "seed_high", "first_chain")


@triton.jit
def _box_muller(x, y):
    """As `geomfast.kernels.sgld.eager.box_muller`, of uint32."""
    u = (x >> 1).to(tl.int32).to(tl.float32) * 4.656612873077393e-10 + 2.3283064365386963e-10
    bits = u.to(tl.int32, bitcast=True)
    e = (bits - 0x3F3504F3) >> 23
    f = (bits - (e << 23)).to(tl.float32, bitcast=True) - 1.0
    p = f * 0.20213767886161804 - 0.3244515061378479
    p = p * f + 0.34501662850379944
    p = p * f - 0.39800330996513367
    p = p * f + 0.4993981719017029
    p = p * f - 0.6667011976242065
    p = p * f + 1.0000072717666626
    p = p * f - 1.9999998807907104
    r = tl.sqrt_rn(p * f - e.to(tl.float32) * 1.3862943649291992)
    t = (y << 2).to(tl.int32, bitcast=True).to(tl.float32) * 3.6572951981676626e-10
    tt = t * t
    s = tt * -0.00019504021736793220 + 0.008332036435604095
    s = s * tt - 0.1666665077209473
    s = (s * tt) * t + t
    c = tt * -0.0013585909036919475 + 0.041655026376247406
    c = c * tt - 0.4999985694885254
    c = c * tt + 1.0
    c = (c.to(tl.uint32, bitcast=True) ^ ((y << 1) & 0x80000000)).to(tl.float32, bitcast=True)
    upright = (y >> 31) == 1
    return r * tl.where(upright, s, c), r * tl.where(upright, c, s)


@triton.jit
def _product(word, factor: tl.constexpr):
    """High and low half of a product: one instruction, where two products would be two."""
    product = word.to(tl.uint64) * factor
    return (product >> 32).to(tl.uint32), product.to(tl.uint32)


@triton.jit
def philox(x0, x1, x2, x3, key0, key1):
    """Philox4x32-10 of words and keys, uint32, each a scalar or a tensor.

    What comes of scalars stays one while it can, and is computed once a thread: with only x0 a
    tensor, half of the first two rounds.
    """
    for _ in tl.static_range(10):  # pyright: ignore[reportGeneralTypeIssues]
        high0, low0 = _product(x0, 0xD2511F53)  # pyright: ignore[reportArgumentType]
        high1, low1 = _product(x2, 0xCD9E8D57)  # pyright: ignore[reportArgumentType]
        x0 = high1 ^ x1 ^ key0
        x1 = low1
        x2 = high0 ^ x3 ^ key1
        x3 = low0
        key0 += 0x9E3779B9
        key1 += 0xBB67AE85
    return x0, x1, x2, x3


@triton.jit
def _place(size, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """Where this program begins, its entries from there, of number 0, and how many are inside.

    Offsets are 32 bits wide from a 64-bit start that all threads share. The compiler moves as many
    entries at once as it knows all of them to be inside: WIDTH divides their number.
    """
    start = tl.program_id(0).to(tl.int64) * (GROUPS * 128)
    group = tl.arange(0, GROUPS)
    entry = group[:, None] * 128 + tl.arange(0, 32)[None, :]
    inside = tl.minimum(size - start, GROUPS * 128).to(tl.int32) // WIDTH * WIDTH
    return start, entry, inside


@triton.jit
def _own_counters(GROUPS: tl.constexpr):
    """Counters of this program, int32, of which the high bit may be set."""
    within = tl.arange(0, GROUPS)[:, None] * 32 + tl.arange(0, 32)[None, :]
    return tl.program_id(0) * (GROUPS * 32) + within


@triton.jit
def _noise(seed_low, seed_high, step, chain, counter):
    """Four normal numbers of each counter."""
    now = tl.load(step)
    x0, x1, x2, x3 = philox(
        counter.to(tl.uint32), chain.to(tl.uint32), now.to(tl.uint32), (now >> 32).to(tl.uint32),
        seed_low.to(tl.uint32), seed_high.to(tl.uint32),
    )  # fmt: skip
    z0, z1 = _box_muller(x0, x1)
    z2, z3 = _box_muller(x2, x3)
    return z0, z1, z2, z3


@triton.jit
def _step_quarter(
    weights, gradients, center, previous, velocity, entry, inside, z, a, b, c, d,
    pull, back, spread, keep,
    TRACKED: tl.constexpr, MOVING: tl.constexpr,
):  # fmt: skip
    """Moves one entry of each counter; returns the four sums with what it adds to them.

    Only the sums fuse products, as their order is free too.
    """
    w = tl.load(weights + entry, mask=inside, other=0.0)
    g = tl.load(gradients + entry, mask=inside, other=0.0)
    away = w - tl.load(center + entry, mask=inside, other=0.0)
    of_loss = pull * g
    drift = of_loss + back * away
    kick = spread * z
    if TRACKED:
        since = w - tl.load(previous + entry, mask=inside, other=0.0)
        tl.store(previous + entry, w, mask=inside)
        c = tl.fma(since, drift, c)
    if MOVING:
        u = tl.load(velocity + entry, mask=inside, other=0.0)
        before = u - drift
        after = keep * before + kick
        tl.store(velocity + entry, after, mask=inside)
        tl.store(weights + entry, (w + before) + after, mask=inside)
        b = tl.fma(of_loss, drift, b)
        c = tl.fma(of_loss, away, c)
        d = tl.fma(of_loss, u, d)
    else:
        tl.store(weights + entry, (w - drift) + kick, mask=inside)
        b = tl.fma(drift, drift, b)
        d = tl.fma(kick, drift, d)
    return tl.fma(away, away, a), b, c, d


@triton.jit(do_not_specialize=ANY_VALUE)
def step_kernel(
    weights, gradients, center, previous, velocity, active, sums, size, seed_low, seed_high,
    step, first_chain, pull, back, spread, keep,
    TRACKED: tl.constexpr, MOVING: tl.constexpr, MASKED: tl.constexpr, GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    out = sums + (row.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * 4
    runs = True
    if MASKED:
        runs = tl.load(active + row) != 0
    if runs:
        start, entry, inside = _place(size, GROUPS, WIDTH)
        shift = row.to(tl.int64) * (size // WIDTH * WIDTH) + start
        weights += shift
        gradients += shift
        center += start
        if WIDTH == 1:
            # Adds nothing, but hides that the center is aligned where the rows are not: it would be
            # read by other threads than they, and pass through shared memory.
            center += tl.minimum(size, 0)
        if TRACKED:
            previous += shift
        if MOVING:
            velocity += shift
        counter = _own_counters(GROUPS)
        # No entry is negative, so this changes nothing and comes to no instruction. But to Triton
        # the counters now come from a load, and noise lies with the threads that load and store:
        # else it would be made elsewhere and pass through shared memory, with barriers.
        w = tl.load(weights + entry, mask=entry < inside, other=0.0)
        counter = tl.where(entry >= 0, counter, w.to(tl.int32, bitcast=True))
        z0, z1, z2, z3 = _noise(seed_low, seed_high, step, first_chain + row, counter)
        a = tl.zeros((GROUPS, 32), dtype=tl.float32)
        b = a
        c = a
        d = a
        for k in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
            z = z0
            if k == 1:
                z = z1
            if k == 2:
                z = z2
            if k == 3:
                z = z3
            at = entry + 32 * k
            a, b, c, d = _step_quarter(
                weights, gradients, center, previous, velocity, at, at < inside, z, a, b, c, d,
                pull, back, spread, keep, TRACKED, MOVING,
            )  # fmt: skip
        tl.store(out, tl.sum(a))
        tl.store(out + 1, tl.sum(b))
        if TRACKED or MOVING:
            tl.store(out + 2, tl.sum(c))
        else:
            tl.store(out + 2, 0.0)
        tl.store(out + 3, tl.sum(d))
    else:
        tl.store(out + tl.arange(0, 4), float("nan"))


@triton.jit(do_not_specialize=ANY_VALUE)
def normals_kernel(
    out, size, seed_low, seed_high, step, first_chain, GROUPS: tl.constexpr, WIDTH: tl.constexpr
):
    row = tl.program_id(1)
    start, entry, inside = _place(size, GROUPS, WIDTH)
    counter = _own_counters(GROUPS)
    z0, z1, z2, z3 = _noise(seed_low, seed_high, step, first_chain + row, counter)
    out += row.to(tl.int64) * (size // WIDTH * WIDTH) + start
    tl.store(out + entry, z0, mask=entry < inside)
    tl.store(out + (entry + 32), z1, mask=entry + 32 < inside)
    tl.store(out + (entry + 64), z2, mask=entry + 64 < inside)
    tl.store(out + (entry + 96), z3, mask=entry + 96 < inside)


def programs(size: int) -> int:
    """How many programs share the entries of a chain: one at least, which makes empty sums zero."""
    return max(triton.cdiv(size, GROUPS * GROUP), 1)


def width(size: int) -> int:
    """How many entries of chains of this size move at once: rows of other sizes are not aligned."""
    return 4 if size % 4 == 0 else 1
