"""Backend "triton": clipping, both means, decay and the step in one pass over memory.

Supports CUDA tensors, and CPU tensors under Triton's interpreter (`TRITON_INTERPRET=1`, for tests).
Nothing waits for the GPU, and all of it can be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from geomfast.kernels.adamw.rule import AdamWState
from geomfast.kernels.backends import launching_on


def step(state: AdamWState, step_scalars: Tensor, scales: Tensor, active: Tensor) -> None:
    """As `geomfast.kernels.adamw.adamw_step`."""
    from geomfast.kernels.adamw import step_kernel

    (members, size), rule = state.weights.shape, state.rule
    if state.weights.numel() == 0:
        return
    beta1, beta2 = rule.betas
    launch: Any = step_kernel.step_kernel[(-(-size // step_kernel.BLOCK), members)]
    with launching_on(state.weights.device):
        launch(
            *state[:4],
            step_scalars,
            scales,
            active,
            size,
            state.num_decayed,
            beta1,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            rule.weight_decay,
            rule.eps,
            BLOCK=step_kernel.BLOCK,
            **step_kernel.OPTIONS,
        )
