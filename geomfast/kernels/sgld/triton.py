"""Backend "triton": noise, update and sums by one Triton kernel.

Serves CUDA tensors, and CPU tensors under Triton's interpreter (`TRITON_INTERPRET=1`, for tests).
Nothing waits for the GPU.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from geomfast.kernels.sgld.dynamics import Dynamics


def step(
    weights: Tensor,
    gradients: Tensor,
    center: Tensor,
    dynamics: Dynamics,
    seed: int,
    step: int | Tensor,
    square_average: Tensor | None,
    previous: Tensor | None,
    active: Tensor | None,
    first_chain: int,
) -> Tensor:
    """As `geomfast.kernels.sgld.sgld_step`, of float32."""
    from geomfast.kernels.sgld import step_kernel

    chains, size = weights.shape
    programs = step_kernel.programs(size)
    sums = weights.new_empty((chains, programs, 4))
    if sums.numel() > 0:
        with _current(weights.device):
            step_kernel.step_kernel[(programs, chains)](
                weights,
                gradients,
                center,
                square_average,
                previous,
                active,
                _stream(seed, step, weights.device),
                sums,
                size,
                first_chain,
                **{"decay": 0.0, "stability": 0.0, **dynamics.factors},
                SCALED=square_average is not None,
                TRACKED=previous is not None,
                MASKED=active is not None,
                GROUPS=step_kernel.GROUPS,
                **step_kernel.OPTIONS,
            )
    statistics = sums.sum(1, dtype=torch.float64)
    if active is not None:
        statistics = torch.where(active[:, None], statistics, torch.nan)
    return statistics


def normals(
    chains: int, size: int, seed: int, step: int, first_chain: int, device: torch.device
) -> Tensor:
    """As `geomfast.kernels.sgld.normals`."""
    from geomfast.kernels.sgld import step_kernel

    out = torch.empty((chains, size), device=device)
    if out.numel() > 0:
        with _current(device):
            step_kernel.normals_kernel[(step_kernel.programs(size), chains)](
                out,
                _stream(seed, step, device),
                size,
                first_chain,
                GROUPS=step_kernel.GROUPS,
                **step_kernel.OPTIONS,
            )
    return out


def _stream(seed: int, step: int | Tensor, device: torch.device) -> Tensor:
    """Seed and step as the kernel reads them."""
    signed = seed - (seed >> 63 << 64)
    if isinstance(step, int):
        return torch.tensor([signed, step], device=device)
    return torch.stack([torch.full_like(step, signed), step])


def _current(device: torch.device) -> contextlib.AbstractContextManager:
    # Triton launches on the current device, which need not be the tensors'.
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
