"""Backend "triton": noise, update and sums by one Triton kernel.

Supports CUDA tensors, and CPU tensors under Triton's interpreter (`TRITON_INTERPRET=1`, for tests).
Nothing waits for the GPU, and all of it can be captured in a CUDA graph.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from geomfast.kernels.backends import launching_on
from geomfast.kernels.sgld.dynamics import LangevinState


def step(state: LangevinState, step: int | Tensor) -> Tensor:
    """As `geomfast.kernels.sgld.sgld_step`, of float32."""
    from geomfast.kernels.sgld import step_kernel

    weights, previous, velocity = state.weights, state.previous, state.velocity
    chains, size = weights.shape
    programs = step_kernel.programs(size)
    sums = weights.new_empty((chains, programs, 4))
    if chains > 0:
        tensors = (weights, state.gradients, state.center, previous, velocity, state.active, sums)
        launch: Any = step_kernel.step_kernel[(programs, chains)]
        with launching_on(weights.device):
            launch(
                *tensors,
                size,
                *_words(state.seed),
                _on_device(step, weights.device),
                state.first_chain,
                **{"keep": 0.0, **state.dynamics.factors},
                TRACKED=previous is not None,
                MOVING=velocity is not None,
                MASKED=state.active is not None,
                GROUPS=step_kernel.GROUPS,
                WIDTH=step_kernel.width(size),
                **step_kernel.OPTIONS,
            )
    return sums.sum(1, dtype=torch.float64)


def normals(
    chains: int, size: int, seed: int, step: int, first_chain: int, device: torch.device
) -> Tensor:
    """As `geomfast.kernels.sgld.normals`."""
    from geomfast.kernels.sgld import step_kernel

    out = torch.empty((chains, size), device=device)
    if out.numel() > 0:
        launch: Any = step_kernel.normals_kernel[(step_kernel.programs(size), chains)]
        with launching_on(device):
            launch(
                out,
                size,
                *_words(seed),
                _on_device(step, device),
                first_chain,
                GROUPS=step_kernel.GROUPS,
                WIDTH=step_kernel.width(size),
                **step_kernel.OPTIONS,
            )
    return out


def _words(seed: int) -> tuple[int, int]:
    """Low and high half of the seed's 64 bits."""
    return ctypes.c_int32(seed).value, ctypes.c_int32(seed >> 32).value


def _on_device(step: int | Tensor, device: torch.device) -> Tensor:
    """Where the kernel reads the step."""
    if isinstance(step, Tensor):
        return step
    # Filled by a kernel: a copy of a number from the host would wait for the device.
    return torch.full((), step, dtype=torch.int64, device=device)
