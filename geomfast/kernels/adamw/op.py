"""One AdamW step of all members: signature, checks, and the table of backends."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.adamw import eager, reference, triton
from geomfast.kernels.adamw.rule import AdamW
from geomfast.kernels.registry import Op, Placement

__all__ = ["OP", "AdamW", "adamw_step", "step_on"]

#: Modules with `step`.
OP = Op("adamw_step", {"triton": triton, "torch": eager, "reference": reference})


def adamw_step(
    weights: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rule: AdamW,
    *,
    num_decayed: int,
    step_scalars: Tensor,
    scales: Tensor,
    active: Tensor,
) -> None:
    """Moves every member by one AdamW step, in place.

    Args:
        weights: (C, P) float32, contiguous; changed.
        gradients: (C, P), of the loss at the weights; anything, NaN too, in rows not active.
            Contents after the call are unspecified.
        exp_avg, exp_avg_sq: (C, P), changed: running means of the gradient and of its square.
        rule: what does not change from step to step.
        num_decayed: how many columns, the first ones, decay.
        step_scalars: (4,) float32, this step's row of :meth:`AdamW.step_scalars`, read on the
            device.
        scales: (C,) float32, what each gradient is multiplied by first: clipping.
        active: (C,) bool, False for members that stay as they are.

    Raises:
        ValueError: shapes, types or places do not fit together.
        BackendError: the forced backend does not support the input.
    """
    _check(weights, gradients, exp_avg, exp_avg_sq, num_decayed, step_scalars, scales, active)
    step_on(
        OP.backend_for(weights), weights, gradients, exp_avg, exp_avg_sq, rule,
        num_decayed=num_decayed, step_scalars=step_scalars, scales=scales, active=active,
    )  # fmt: skip


def step_on(
    backend: str,
    weights: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rule: AdamW,
    *,
    num_decayed: int,
    step_scalars: Tensor,
    scales: Tensor,
    active: Tensor,
) -> None:
    """As `adamw_step`, by one backend, of input that is known to fit."""
    OP[backend].step(
        weights, gradients, exp_avg, exp_avg_sq, rule, num_decayed, step_scalars, scales, active
    )


def _check(
    weights: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    num_decayed: int,
    step_scalars: Tensor,
    scales: Tensor,
    active: Tensor,
) -> None:
    if weights.dim() != 2:
        raise ValueError(f"weights must be (C, P), not {tuple(weights.shape)}")
    rows = tuple(weights.shape)
    if not 0 <= num_decayed <= rows[1]:
        raise ValueError(f"num_decayed must be from 0 to P = {rows[1]}, not {num_decayed}")
    expected = {
        "weights": (weights, rows, torch.float32),
        "gradients": (gradients, rows, torch.float32),
        "exp_avg": (exp_avg, rows, torch.float32),
        "exp_avg_sq": (exp_avg_sq, rows, torch.float32),
        "step_scalars": (step_scalars, (4,), torch.float32),
        "scales": (scales, rows[:1], torch.float32),
        "active": (active, rows[:1], torch.bool),
    }
    for name, (x, shape, of) in expected.items():
        if x.shape != shape or x.dtype != of or x.device != weights.device:
            raise ValueError(
                f"{name} must be {shape} {of} on {weights.device}, not "
                f"{tuple(x.shape)} {x.dtype} on {x.device}"
            )
        if not x.is_contiguous():
            raise ValueError(f"{name} must be contiguous")


@OP.self_test({"adamw_step": 1e-6})
def _self_test(backend: str, place: Placement) -> dict[str, Tensor]:
    """A later step of members of more than one block, one of which stays as it is."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(4, 3, 1100, generator=generator, device="cpu")
    state[3] **= 2  # the mean of squares
    rule = AdamW((0.9, 0.98), 0.1)
    weights, gradients, exp_avg, exp_avg_sq = place(state)
    step_on(
        backend, weights, gradients, exp_avg, exp_avg_sq, rule, num_decayed=700,
        step_scalars=place(rule.step_scalars([1e-2] * 9)[8]),
        scales=place(torch.tensor([1.0, 0.3, 0.5], device="cpu")),
        active=place(torch.tensor([True, True, False], device="cpu")),
    )  # fmt: skip
    return {"adamw_step": torch.stack([weights, exp_avg, exp_avg_sq])}
