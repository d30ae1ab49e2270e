"""Backend "reference": float64, the formulas of the algorithm, a member at a time."""

from __future__ import annotations

from torch import Tensor

from geomfast.kernels.adamw.rule import AdamWState


def step(state: AdamWState, step_scalars: Tensor, scales: Tensor, active: Tensor) -> None:
    """As `geomfast.kernels.adamw.adamw_step`."""
    weights, gradients, exp_avg, exp_avg_sq, rule, num_decayed = state
    rate, _, means, root = step_scalars.double().tolist()
    beta1, beta2 = rule.betas
    for c in active.nonzero().flatten().tolist():
        g = gradients[c].double() * scales[c].double()
        m = beta1 * exp_avg[c].double() + (1.0 - beta1) * g
        v = beta2 * exp_avg_sq[c].double() + (1.0 - beta2) * g**2
        w = weights[c].double()
        w[:num_decayed] *= 1.0 - rate * rule.weight_decay
        weights[c] = w - rate * means * m / (v.sqrt() * root + rule.eps)
        exp_avg[c], exp_avg_sq[c] = m, v
