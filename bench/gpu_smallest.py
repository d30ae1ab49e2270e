"""Runs every GPU kernel at its smallest telling shapes: what compute-sanitizer watches.

    compute-sanitizer --tool memcheck python bench/gpu_smallest.py

A sanitizer slows kernels down by orders of magnitude, hence the sizes. Results are compared with
the CPU's, so that a run which computes nothing does not pass.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

# Memory from the driver itself: torch's own pool would hide a step beyond the end of a tensor.
os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from bench.gpu_lines import emit
from geomfast.estimators.curvature.fused import FusedProducts
from geomfast.kernels import adamw, sgld
from geomfast.kernels.gradient_gram import Factors, eager, triton
from geomfast.kernels.spectra import op
from geomfast.losses import next_token
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale


def spectra() -> None:
    """In shared memory, one warp and several; in global memory, one block and a cluster."""
    # 300 matrices leave no room for clusters on a device of up to 150 multiprocessors.
    for batch, n, d in ((2, 7, 5), (2, 70, 40), (1, 250, 260), (300, 240, 240)):
        for dtype in (torch.float32, torch.float64):
            x = torch.randn(batch, n, d, generator=torch.Generator().manual_seed(0)).to(dtype)
            ranks = op.rankme(x.cuda(), False, 0.0).cpu()
            few = slice(0, 3)
            torch.testing.assert_close(ranks[few], op.rankme(x[few], False, 0.0), rtol=1e-6, atol=0)


def gradient_gram() -> None:
    """Small and large tiles, several blocks of positions, indices, padding, shares of long rows."""
    generator = torch.Generator().manual_seed(0)

    def dense(samples: int, length: int, rows: int, columns: int, dtype: torch.dtype) -> Factors:
        left = torch.randn(samples, length, rows, generator=generator, dtype=dtype)
        right = torch.randn(samples, length, columns, generator=generator, dtype=dtype)
        return Factors(left, right, rows)

    def one_hot(samples: int, length: int, rows: int, columns: int, dtype: torch.dtype) -> Factors:
        left = torch.randint(rows, (samples, length), generator=generator)
        return Factors(left, dense(samples, length, 1, columns, dtype).right, rows)

    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        for uses in (
            [dense(3, 1, 1, 1, dtype)],
            [dense(70, 17, 9, 33, dtype)],
            [dense(520, 4, 16, 24, dtype)],
            [dense(5, 4, 9, 16, dtype), one_hot(5, 7, 9, 16, dtype)],
        ):
            onto = [Factors(use.left.cuda(), use.right.cuda(), use.rows) for use in uses]
            expected = eager.ghost(uses, 1 << 20)
            largest = expected.abs().max().item()
            for found in (triton.ghost(onto, 1 << 20), triton.materialised(onto, 1 << 20, False)):
                torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=tolerance * largest)


def hessian() -> None:
    """Every tangent kernel, through products of a small GPT: short and long rows, two probes."""
    for width, heads, length in ((32, 2, 5), (64, 1, 40)):
        scale = Scale("tiny", 2, width, heads, 1e-3, vocabulary=11, context=length)
        tokens = torch.randint(11, (3, length), generator=torch.Generator().manual_seed(0))
        model = GPT(scale, 0)
        exact = FusedProducts(model.double(), next_token, tokens)
        v = torch.randn(exact.dimension, generator=torch.Generator().manual_seed(1))
        expected = exact(v.double())
        found = FusedProducts(GPT(scale, 0).cuda(), next_token, tokens.cuda())(v.cuda())
        difference = (found.cpu().double() - expected).norm() / expected.norm()
        assert difference <= 1e-4, difference


def langevin() -> None:
    """One program and two, the last not full; a chain that stays; the step's number on the GPU."""
    generator = torch.Generator().manual_seed(0)
    for size in (5, 1040, 1500):
        noise = sgld.normals(2, size, seed=1, step=2, device="cuda").cpu()
        assert torch.equal(noise, sgld.normals(2, size, seed=1, step=2))
        for momentum in (None, 0.7):
            dynamics = sgld.Dynamics(1e-3, 30.0, 100.0, momentum)
            weights, gradients, previous = torch.randn(3, 3, size, generator=generator)
            given = {"weights": weights, "gradients": gradients, "center": weights[0].clone()}
            given["previous" if momentum is None else "velocity"] = previous
            if momentum is not None:
                given["active"] = torch.tensor([True, False, True])
            onto = {name: x.cuda() for name, x in given.items()}
            now: dict[str, Any] = {"dynamics": dynamics, "seed": 1}
            number = torch.tensor(7, device="cuda")
            found = sgld.sgld_step(sgld.LangevinState(**onto, **now), number)
            expected = sgld.sgld_step(sgld.LangevinState(**given, **now), 7)
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-9, equal_nan=True)
            for name, x in given.items():
                assert torch.equal(onto[name].cpu(), x), name


def stacked_adamw() -> None:
    """One block and two, the last not full; a member that stays, with a gradient that is NaN."""
    generator = torch.Generator().manual_seed(0)
    rule = adamw.AdamW((0.9, 0.98), 0.1)
    for size in (5, 1024, 1500):
        weights, gradients, exp_avg, exp_avg_sq = torch.randn(4, 3, size, generator=generator)
        gradients[1] = torch.nan
        x = torch.stack([weights, gradients, exp_avg, exp_avg_sq**2])
        scalars = rule.step_scalars([1e-2] * 5)[4]
        rest = scalars, torch.rand(3, generator=generator), torch.tensor([True, False, True])
        moved = []
        for device in ("cuda", "cpu"):
            w, g, m, v = x.to(device, copy=True)
            state = adamw.AdamWState(w, g, m, v, rule, size // 2)
            adamw.adamw_step(state, *(y.to(device) for y in rest))
            moved.append(torch.stack([w, m, v]).cpu())
        torch.testing.assert_close(*moved, rtol=1e-5, atol=1e-7)


if __name__ == "__main__":
    checked = os.environ.get("GEOMFAST_SANITIZER", "the kernels alone")
    failed = False
    for part in (spectra, gradient_gram, hessian, langevin, stacked_adamw):
        outcome = "agrees with the CPU"
        try:
            part()
            torch.cuda.synchronize()
        except Exception as error:  # the other kernels are worth running all the same
            traceback.print_exc()
            outcome, failed = f"{type(error).__name__}: {error}"[:1000], True
        emit("sanitizer", f"{checked}, {part.__name__}", outcome=outcome)
    if failed:
        sys.exit(1)
    print("every GPU kernel ran and agrees with the CPU")
