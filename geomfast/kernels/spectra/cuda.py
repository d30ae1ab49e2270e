"""Backend "cuda": Gram matrices by Triton, eigenvalues and entropy by the kernels of csrc/.

Nothing here waits for the GPU: work is queued on the caller's stream. So nothing can be raised
about the entries of x either; a matrix with NaN or infinity gives NaN.
"""

from typing import Any

import torch

from geomfast.kernels.backends import native_module, triton_missing
from geomfast.kernels.spectra import eager
from geomfast.kernels.spectra import triton as triton_backend
from geomfast.kernels.spectra.scaling import power_of_two


def singular_values(x: torch.Tensor) -> torch.Tensor:
    """(..., N, d) on a CUDA device -> (..., min(N, d)) float64, descending."""
    values, _, scale = _launch(x, None)
    if scale is not None:
        values = values * scale[:, None]
    return values.reshape(*x.shape[:-2], -1)


def rankme(x: torch.Tensor, eps: float) -> torch.Tensor:
    """(..., N, d) on a CUDA device -> (...) float64; the entropy is fused into the last kernel."""
    _, ranks, _ = _launch(x, eps)
    assert ranks is not None
    return ranks.reshape(x.shape[:-2])


def gram_eigenvalues(gram: torch.Tensor) -> torch.Tensor:
    """(n, n) float64 positive semi-definite on a CUDA device -> (n,), ascending."""
    scale = power_of_two(gram)
    assert scale is not None
    n = len(gram)
    with torch.cuda.device(gram.device):
        plan = native_module("_cuda").spectra_plan(gram.device.index, 1, n)
        values, _ = _queue(plan, (gram / scale)[None].contiguous(), None)  # a copy: it is used up
    return values[0].square().flip(0) * scale


def _launch(
    x: torch.Tensor, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Values (B, n) of x / scale, RankMe (B,) unless eps is None, scale (B,) or None."""
    matrices = x.reshape(-1, *x.shape[-2:])
    batch, n = matrices.shape[0], min(matrices.shape[-2:])
    with torch.cuda.device(x.device):
        plan = native_module("_cuda").spectra_plan(x.device.index, batch, n)
        if triton_missing():
            gram, scale = eager.gram_and_scale(matrices)
        else:
            gram, scale = triton_backend.gram_and_scale(
                matrices, mirrored=not plan.in_shared_memory
            )
        values, ranks = _queue(plan, gram, eps)
    return values, ranks, scale


def _queue(
    plan: Any, gram: torch.Tensor, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Values (B, n), and RankMe (B,) unless eps is None, of Gram matrices that are used up."""
    batch, n = gram.shape[:2]
    values, workspace = (
        torch.empty(size, dtype=torch.float64, device=gram.device)
        for size in ((batch, n), (plan.workspace(batch, n),))
    )
    ranks = None if eps is None else values.new_empty(batch)
    native_module("_cuda").spectra(
        plan=plan,
        gram=gram.data_ptr(),
        batch=batch,
        n=n,
        eps=eps or 0.0,
        values=values.data_ptr(),
        rankme=0 if ranks is None else ranks.data_ptr(),
        workspace=workspace.data_ptr(),
        stream=torch.cuda.current_stream(gram.device).cuda_stream,
    )
    return values, ranks
