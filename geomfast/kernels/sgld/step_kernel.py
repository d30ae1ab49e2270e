"""Triton kernels of Langevin steps and their noise.

Importing this module imports Triton; `geomfast.kernels.sgld.triton` does so when it is needed.
Products and sums are not fused (`enable_fp_fusion`), and roots and quotients are rounded correctly:
the noise has the same bits as on the CPU.
"""

import triton
import triton.language as tl

from geomfast.kernels.sgld.philox import GROUP

#: Groups of 128 entries that one program takes: eight entries a thread.
GROUPS = 8
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
# Whatever these are, one compiled kernel serves; Triton would make one more for 1 or for 16.
ANY_VALUE = ("seed_low", "seed_high", "first_chain")


@triton.jit
def _box_muller(x, y):
    """As `geomfast.kernels.sgld.plain.box_muller`, of uint32."""
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
def _noise(seed_low, seed_high, step, chain, GROUPS: tl.constexpr):
    """First entries of this program's counters, and four normal numbers of each."""
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    lane = tl.arange(0, 32)
    counter = group[:, None] * 32 + lane[None, :]
    seed = (seed_high.to(tl.int64) << 32) | (seed_low.to(tl.int64) & 0xFFFFFFFF)
    now = tl.load(step)
    zero = tl.zeros_like(counter)
    x0, x1, x2, x3 = tl.philox(
        seed, counter, zero + chain, zero + now.to(tl.int32), zero + (now >> 32).to(tl.int32)
    )
    z0, z1 = _box_muller(x0, x1)
    z2, z3 = _box_muller(x2, x3)
    entry = group.to(tl.int64)[:, None] * 128 + lane[None, :]
    return entry, z0, z1, z2, z3


@triton.jit
def _step_quarter(
    weights,
    gradients,
    center,
    square_average,
    previous,
    shift,
    entry,
    z,
    size,
    pull,
    back,
    spread,
    decay,
    stability,
    SCALED: tl.constexpr,
    TRACKED: tl.constexpr,
):
    """Moves one entry of each counter; returns what it adds to the four sums."""
    inside = entry < size
    w = tl.load(weights + shift + entry, mask=inside, other=0.0)
    g = tl.load(gradients + shift + entry, mask=inside, other=0.0)
    away = w - tl.load(center + entry, mask=inside, other=0.0)
    drift = pull * g + back * away
    kick = spread * z
    if SCALED:
        v = tl.load(square_average + shift + entry, mask=inside, other=0.0)
        v = decay * v + (1.0 - decay) * (g * g)
        tl.store(square_average + shift + entry, v, mask=inside)
        m = tl.div_rn(1.0, tl.sqrt_rn(v) + stability)
        drift = m * drift
        kick = tl.sqrt_rn(m) * kick
    since = tl.zeros_like(w)
    if TRACKED:
        since = w - tl.load(previous + shift + entry, mask=inside, other=0.0)
        tl.store(previous + shift + entry, w, mask=inside)
    tl.store(weights + shift + entry, (w - drift) + kick, mask=inside)
    return away * away, drift * drift, since * drift, kick * drift


@triton.jit(do_not_specialize=ANY_VALUE)
def step_kernel(
    weights,
    gradients,
    center,
    square_average,
    previous,
    active,
    sums,
    size,
    seed_low,
    seed_high,
    step,
    first_chain,
    pull,
    back,
    spread,
    decay,
    stability,
    SCALED: tl.constexpr,
    TRACKED: tl.constexpr,
    MASKED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    row = tl.program_id(1)
    out = sums + (row.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * 4
    runs = True
    if MASKED:
        runs = tl.load(active + row) != 0
    if runs:
        entry, z0, z1, z2, z3 = _noise(seed_low, seed_high, step, first_chain + row, GROUPS)
        shift = row.to(tl.int64) * size
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
            more_a, more_b, more_c, more_d = _step_quarter(
                weights, gradients, center, square_average, previous, shift, entry + 32 * k, z,
                size, pull, back, spread, decay, stability, SCALED, TRACKED,
            )  # fmt: skip
            a += more_a
            b += more_b
            c += more_c
            d += more_d
        tl.store(out, tl.sum(a))
        tl.store(out + 1, tl.sum(b))
        tl.store(out + 2, tl.sum(c))
        tl.store(out + 3, tl.sum(d))
    else:
        tl.store(out + tl.arange(0, 4), float("nan"))


@triton.jit(do_not_specialize=ANY_VALUE)
def normals_kernel(out, size, seed_low, seed_high, step, first_chain, GROUPS: tl.constexpr):
    row = tl.program_id(1)
    entry, z0, z1, z2, z3 = _noise(seed_low, seed_high, step, first_chain + row, GROUPS)
    out += row.to(tl.int64) * size
    tl.store(out + entry, z0, mask=entry < size)
    tl.store(out + entry + 32, z1, mask=entry + 32 < size)
    tl.store(out + entry + 64, z2, mask=entry + 64 < size)
    tl.store(out + entry + 96, z3, mask=entry + 96 < size)


def programs(size: int) -> int:
    """How many programs share the entries of a chain: one at least, which makes empty sums zero."""
    return max(triton.cdiv(size, GROUPS * GROUP), 1)
