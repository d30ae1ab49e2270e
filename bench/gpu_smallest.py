"""Runs every GPU kernel at its smallest telling shapes: what compute-sanitizer watches.

    compute-sanitizer --tool memcheck python bench/gpu_smallest.py

A sanitizer slows kernels down by orders of magnitude, hence the sizes. Results are compared with
the CPU's, so that a run which computes nothing does not pass.
"""

import os
import sys
from pathlib import Path

# Memory from the driver itself: torch's own pool would hide a step beyond the end of a tensor.
os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from geomfast.kernels.spectra import op


def spectra() -> None:
    """In shared memory, one warp and several; in global memory, one block and a cluster."""
    # 300 matrices leave no room for clusters on a device of up to 150 multiprocessors.
    for batch, n, d in ((2, 7, 5), (2, 70, 40), (1, 250, 260), (300, 240, 240)):
        for dtype in (torch.float32, torch.float64):
            x = torch.randn(batch, n, d, generator=torch.Generator().manual_seed(0)).to(dtype)
            ranks = op.rankme(x.cuda(), False, 0.0).cpu()
            few = slice(0, 3)
            torch.testing.assert_close(ranks[few], op.rankme(x[few], False, 0.0), rtol=1e-6, atol=0)


if __name__ == "__main__":
    spectra()
    torch.cuda.synchronize()
    print("every GPU kernel ran and agrees with the CPU")
