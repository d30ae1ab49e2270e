"""One AdamW step of all members: signature, checks, and who serves it."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.adamw import eager, reference, triton
from geomfast.kernels.adamw.rule import AdamW
from geomfast.kernels.backends import Candidate, choose, triton_candidate

__all__ = ["AdamW", "adamw_step", "backend_for", "backends_serving", "step_on"]

# Backend -> module with `step`.
IMPLEMENTATIONS = {"triton": triton, "torch": eager, "reference": reference}


def _candidates(weights: Tensor) -> list[Candidate]:
    """Who serves weights in this place, best first."""
    return [
        triton_candidate(weights.device),
        Candidate("torch"),
        Candidate("reference", slower="for comparison only"),
    ]


def backend_for(weights: Tensor) -> str:
    """Name of the backend that serves these weights."""
    return choose("adamw_step", _candidates(weights))


def backends_serving(weights: Tensor) -> list[str]:
    """Names of all backends that can serve these weights, best first."""
    return [candidate.name for candidate in _candidates(weights) if not candidate.refusal]


def adamw_step(
    weights: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rule: AdamW,
    *,
    matrices: int,
    factors: Tensor,
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
        matrices: how many columns, the first ones, decay.
        factors: (4,) float32, this step's row of :meth:`AdamW.factors`; read on the device.
        scales: (C,) float32, what each gradient is multiplied by first: clipping.
        active: (C,) bool, False for members that stay as they are.

    Raises:
        ValueError: shapes, types or places do not fit together.
        BackendError: the forced backend cannot serve.
    """
    _check(weights, gradients, exp_avg, exp_avg_sq, matrices, factors, scales, active)
    step_on(
        backend_for(weights), weights, gradients, exp_avg, exp_avg_sq, rule,
        matrices=matrices, factors=factors, scales=scales, active=active,
    )  # fmt: skip


def step_on(
    backend: str,
    weights: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rule: AdamW,
    *,
    matrices: int,
    factors: Tensor,
    scales: Tensor,
    active: Tensor,
) -> None:
    """As `adamw_step`, by one backend, of input that is known to fit."""
    IMPLEMENTATIONS[backend].step(
        weights, gradients, exp_avg, exp_avg_sq, rule, matrices, factors, scales, active
    )


def _check(
    weights: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    matrices: int,
    factors: Tensor,
    scales: Tensor,
    active: Tensor,
) -> None:
    if weights.dim() != 2:
        raise ValueError(f"weights must be (C, P), not {tuple(weights.shape)}")
    rows = tuple(weights.shape)
    if not 0 <= matrices <= rows[1]:
        raise ValueError(f"matrices must be from 0 to P = {rows[1]}, not {matrices}")
    expected = {
        "weights": (weights, rows, torch.float32),
        "gradients": (gradients, rows, torch.float32),
        "exp_avg": (exp_avg, rows, torch.float32),
        "exp_avg_sq": (exp_avg_sq, rows, torch.float32),
        "factors": (factors, (4,), torch.float32),
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
