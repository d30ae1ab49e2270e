"""Backend "cuda": Gram matrices by Triton, eigenvalues and entropy by the kernels of csrc/.

Nothing here waits for the GPU: work is queued on the caller's stream. So nothing can be raised
about the entries of x either; a matrix with NaN or infinity gives NaN.
"""

import torch

from geomfast.kernels.backends import native_module, triton_missing
from geomfast.kernels.spectra import plain
from geomfast.kernels.spectra import triton as triton_backend


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


def _launch(
    x: torch.Tensor, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Values (B, n) of x / scale, RankMe (B,) unless eps is None, scale (B,) or None."""
    native = native_module("_cuda")
    matrices = x.reshape(-1, *x.shape[-2:])
    batch, n = matrices.shape[0], min(matrices.shape[-2:])
    with torch.cuda.device(x.device):
        plan = native.spectra_plan(x.device.index, batch, n)
        if triton_missing():
            gram, scale = plain.gram_and_scale(matrices)
        else:
            gram, scale = triton_backend.gram_and_scale(
                matrices, mirrored=not plan.in_shared_memory
            )
        values, workspace = (
            torch.empty(size, dtype=torch.float64, device=x.device)
            for size in ((batch, n), (plan.workspace(batch, n),))
        )
        ranks = None if eps is None else values.new_empty(batch)
        native.spectra(
            plan=plan,
            gram=gram.data_ptr(),
            batch=batch,
            n=n,
            eps=eps or 0.0,
            values=values.data_ptr(),
            rankme=0 if ranks is None else ranks.data_ptr(),
            workspace=workspace.data_ptr(),
            stream=torch.cuda.current_stream(x.device).cuda_stream,
        )
    return values, ranks, scale
