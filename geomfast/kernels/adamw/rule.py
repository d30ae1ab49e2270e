"""What an AdamW step moves, and what it multiplies by what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdamW:
    """Loshchilov and Hutter (2019), arXiv:1711.05101, algorithm 2, as ``torch.optim.AdamW`` has it.

    Attributes:
        betas: of the running means of gradient and squared gradient.
        eps: added to the root of the latter.
        weight_decay: of the columns that decay, those of matrices.
    """

    betas: tuple[float, float]
    weight_decay: float
    eps: float = 1e-8

    def step_scalars(self, rates: Sequence[float]) -> Tensor:
        """(steps, 4) float32: what changes from step to step.

        The rate, t, 1 / (1 - beta1^t) and 1 / sqrt(1 - beta2^t), t = 1, 2, ...: a table that lies
        on the device, so that a replayed CUDA graph looks its step up.
        """
        t = torch.arange(1, len(rates) + 1, dtype=torch.float64, device="cpu")
        means, squares = (1.0 - beta**t for beta in self.betas)
        rate = torch.tensor(rates, dtype=torch.float64, device="cpu")
        return torch.stack([rate, t, 1.0 / means, squares.rsqrt()], 1).float()


class AdamWState(NamedTuple):
    """Members of P parameters each, and what does not change from step to step.

    Attributes:
        weights: (C, P) float32, contiguous; changed.
        gradients: (C, P), of the loss at the weights; anything, NaN too, in rows not active.
            Contents after a step are unspecified.
        exp_avg, exp_avg_sq: (C, P), changed: running means of the gradient and of its square.
        rule: betas, eps and decay.
        num_decayed: how many columns, the first ones, decay.
    """

    weights: Tensor
    gradients: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    rule: AdamW
    num_decayed: int
