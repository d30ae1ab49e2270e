"""Backend "torch": torch's own fused AdamW, of the active members' rows as its parameters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from geomfast.kernels.adamw.rule import AdamWState


def step(state: AdamWState, step_scalars: Tensor, scales: Tensor, active: Tensor) -> None:
    """As `geomfast.kernels.adamw.adamw_step`; reads step_scalars and mask on the host."""
    buffers, rule, num_decayed = state[:4], state.rule, state.num_decayed
    rate, t, _, _ = step_scalars.tolist()
    rows = active.nonzero().flatten().tolist()
    # Only those that are clipped: the step reads four buffers and writes three, this one more each.
    for c in (active & (scales != 1.0)).nonzero().flatten().tolist():
        state.gradients[c] *= scales[c]
    decayed = [x[:, :num_decayed].unbind() for x in buffers]
    others = [x[:, num_decayed:].unbind() for x in buffers]
    for parts, weight_decay in ((decayed, rule.weight_decay), (others, 0.0)):
        w, g, m, v = ([part[c] for c in rows] for part in parts)
        # The function counts the steps on before it uses them.
        steps = [torch.tensor(t - 1.0, device=state.weights.device) for _ in rows]
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
