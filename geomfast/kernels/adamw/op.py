"""One AdamW step of all members: signature, checks, and the table of backends."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.adamw import eager, reference, triton
from geomfast.kernels.adamw.rule import AdamW, AdamWState
from geomfast.kernels.checks import check_fits
from geomfast.kernels.registry import Op, Placement

#: Modules with `step`, as `adamw_step`.
OP = Op("adamw_step", {"triton": triton, "torch": eager, "reference": reference})


def adamw_step(state: AdamWState, step_scalars: Tensor, scales: Tensor, active: Tensor) -> None:
    """Moves every member by one AdamW step, in place.

    Args:
        state: changed; see `AdamWState`.
        step_scalars: (4,) float32, this step's row of `AdamW.step_scalars`, read on the device.
        scales: (C,) float32, what each gradient is multiplied by first: clipping.
        active: (C,) bool, False for members that stay as they are.

    Raises:
        ValueError: shapes, types or places do not fit together.
        BackendError: the forced backend does not support the input.
    """
    _check(state, step_scalars, scales, active)
    OP[OP.backend_for(state.weights)].step(state, step_scalars, scales, active)


def _check(state: AdamWState, step_scalars: Tensor, scales: Tensor, active: Tensor) -> None:
    if state.weights.dim() != 2:
        raise ValueError(f"weights must be (C, P), not {tuple(state.weights.shape)}")
    (members, size), device = state.weights.shape, state.weights.device
    if not 0 <= state.num_decayed <= size:
        raise ValueError(f"num_decayed must be from 0 to P = {size}, not {state.num_decayed}")
    for name in ("weights", "gradients", "exp_avg", "exp_avg_sq"):
        check_fits(name, getattr(state, name), (members, size), torch.float32, device)
    check_fits("step_scalars", step_scalars, (4,), torch.float32, device)
    check_fits("scales", scales, (members,), torch.float32, device)
    check_fits("active", active, (members,), torch.bool, device)


@OP.self_test({"adamw_step": 1e-6})
def _self_test(backend: str, place: Placement) -> dict[str, Tensor]:
    """A later step of members of more than one block, one of which stays as it is."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 1100, generator=generator, device="cpu")
    x[3] **= 2  # the mean of squares
    rule = AdamW((0.9, 0.98), 0.1)
    weights, gradients, exp_avg, exp_avg_sq = place(x)
    state = AdamWState(weights, gradients, exp_avg, exp_avg_sq, rule, num_decayed=700)
    scales = torch.tensor([1.0, 0.3, 0.5], device="cpu")
    active = torch.tensor([True, True, False], device="cpu")
    step_scalars = rule.step_scalars([1e-2] * 9)[8]
    OP[backend].step(state, place(step_scalars), place(scales), place(active))
    return {"adamw_step": torch.stack([weights, exp_avg, exp_avg_sq])}
