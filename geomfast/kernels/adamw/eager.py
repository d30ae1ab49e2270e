"""Backend "torch": torch's own fused AdamW, of the active members' rows as its parameters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from geomfast.kernels.adamw.rule import AdamW


def step(
    weights: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rule: AdamW,
    num_decayed: int,
    step_scalars: Tensor,
    scales: Tensor,
    active: Tensor,
) -> None:
    """As `geomfast.kernels.adamw.adamw_step`; reads step_scalars and mask on the host."""
    rate, t, _, _ = step_scalars.tolist()
    rows = active.nonzero().flatten().tolist()
    # Only those that are clipped: the step reads four buffers and writes three, this one more each.
    for c in (active & (scales != 1.0)).nonzero().flatten().tolist():
        gradients[c] *= scales[c]
    buffers = (weights, gradients, exp_avg, exp_avg_sq)
    decayed = [x[:, :num_decayed].unbind() for x in buffers]
    others = [x[:, num_decayed:].unbind() for x in buffers]
    for parts, weight_decay in ((decayed, rule.weight_decay), (others, 0.0)):
        w, g, m, v = ([part[c] for c in rows] for part in parts)
        # The function counts the steps on before it uses them.
        steps = [torch.tensor(t - 1.0, device=weights.device) for _ in rows]
        adamw(
            w,
            g,
            m,
            v,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=rule.betas[0],
            beta2=rule.betas[1],
            lr=rate,
            weight_decay=weight_decay,
            eps=rule.eps,
            maximize=False,
        )
