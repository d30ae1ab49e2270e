"""The Philox of the step kernel, for known answers."""

import triton
import triton.language as tl

from geomfast.kernels.sgld.step_kernel import philox


@triton.jit
def philox_kernel(seed, counter, out):
    x0, x1, x2, x3 = philox(
        (tl.load(counter + tl.arange(0, 1))).to(tl.uint32, bitcast=True),
        tl.load(counter + 1).to(tl.uint32, bitcast=True),
        tl.load(counter + 2).to(tl.uint32, bitcast=True),
        tl.load(counter + 3).to(tl.uint32, bitcast=True),
        tl.load(seed).to(tl.uint32, bitcast=True),
        tl.load(seed + 1).to(tl.uint32, bitcast=True),
    )
    at = tl.arange(0, 1)
    tl.store(out + at, x0.to(tl.int32, bitcast=True))
    tl.store(out + 1 + at, x1.to(tl.int32, bitcast=True))
    tl.store(out + 2 + at, x2.to(tl.int32, bitcast=True))
    tl.store(out + 3 + at, x3.to(tl.int32, bitcast=True))
