"""The Triton kernel of an AdamW step.

Importing this module imports Triton; `geomfast.kernels.adamw.triton` does so when it is needed.
"""

import triton
import triton.language as tl

#: Entries of a member that one program moves: eight a thread.
BLOCK = 1024
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def step_kernel(
    weights, gradients, exp_avg, exp_avg_sq, step_scalars, scales, active, size, num_decayed, beta1,
    rest1, beta2, rest2, weight_decay, eps,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    if tl.load(active + row) != 0:
        rate = tl.load(step_scalars)
        means = tl.load(step_scalars + 2)
        root = tl.load(step_scalars + 3)
        scale = tl.load(scales + row)
        entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = entry < size
        at = row.to(tl.int64) * size + entry
        g = tl.load(gradients + at, mask=inside, other=0.0) * scale
        m = beta1 * tl.load(exp_avg + at, mask=inside, other=0.0) + rest1 * g
        v = beta2 * tl.load(exp_avg_sq + at, mask=inside, other=0.0) + rest2 * (g * g)
        w = tl.load(weights + at, mask=inside, other=0.0)
        w = tl.where(entry < num_decayed, w * (1.0 - rate * weight_decay), w)
        w -= rate * means * tl.div_rn(m, tl.sqrt_rn(v) * root + eps)
        tl.store(weights + at, w, mask=inside)
        tl.store(exp_avg + at, m, mask=inside)
        tl.store(exp_avg_sq + at, v, mask=inside)
