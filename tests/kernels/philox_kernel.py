"""Triton's own Philox, called as the step kernel calls it, for known answers."""

import triton
import triton.language as tl


@triton.jit
def philox_kernel(seed, counter, out):
    zero = tl.zeros((1,), dtype=tl.int32)
    c0, c1, c2, c3 = (
        zero + tl.load(counter),
        zero + tl.load(counter + 1),
        zero + tl.load(counter + 2),
        zero + tl.load(counter + 3),
    )
    x0, x1, x2, x3 = tl.philox(tl.load(seed), c0, c1, c2, c3)
    at = tl.arange(0, 1)
    tl.store(out + at, x0.to(tl.int32, bitcast=True))
    tl.store(out + 1 + at, x1.to(tl.int32, bitcast=True))
    tl.store(out + 2 + at, x2.to(tl.int32, bitcast=True))
    tl.store(out + 3 + at, x3.to(tl.int32, bitcast=True))
