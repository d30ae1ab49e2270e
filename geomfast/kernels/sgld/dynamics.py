"""What a Langevin step moves, and what it multiplies by what."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Dynamics:
    """dw = -(lr/2) [nbeta g + localization (w - center)] + sqrt(lr) noise.

    Lau et al. (2023), arXiv:2308.12108, equation 9.

    With momentum c it is the Langevin equation with inertia, in steps of BAOAB (Leimkuhler and
    Matthews 2013, doi:10.1093/amrx/abs010) of unit mass and length sqrt(lr): u -= lr/2 [...],
    w += u, u = c u + sqrt(lr (1 - c^2)) / 2 noise, w += u. Where the loss is quadratic its draws
    have the right spread at every stable lr, and not only at small ones. At c = 0 it is the steps
    above with the mean of two successive noises in place of one.

    Attributes:
        lr: step size, epsilon in the papers.
        nbeta: inverse temperature times the number of samples.
        localization: strength of the pull to the center, gamma in the papers.
        momentum: share of the velocity that a step leaves, 0 to less than 1; None for none.
    """

    lr: float
    nbeta: float
    localization: float
    momentum: float | None = None

    @property
    def factors(self) -> dict[str, float]:
        """What the kernels multiply by, rounded to float32 so that all take the same."""
        found = {
            "pull": 0.5 * self.lr * self.nbeta,
            "back": 0.5 * self.lr * self.localization,
            "spread": math.sqrt(self.lr),
        }
        if self.momentum is not None:
            found["keep"] = self.momentum
            found["spread"] *= 0.5 * math.sqrt(1.0 - self.momentum**2)
        return {name: ctypes.c_float(value).value for name, value in found.items()}


class LangevinState(NamedTuple):
    """Chains of one seed: the tensors that a Langevin step reads and changes, and its dynamics.

    Attributes:
        weights: (C, P) float32 or float64, contiguous; changed.
        gradients: (C, P), of the loss at the weights.
        center: (P,), where the localization pulls to.
        dynamics: what a step multiplies by.
        seed: of the noise, 64 bits.
        previous: (C, P), changed: the weights before the last step, becomes those before this one.
            Without it the third number that a step returns is zero.
        velocity: (C, P), changed: half of what the last step moved by; needed with momentum.
        active: (C,) bool, False for chains that stay as they are; None for all.
        first_chain: index of the first row's chain.
    """

    weights: Tensor
    gradients: Tensor
    center: Tensor
    dynamics: Dynamics
    seed: int
    previous: Tensor | None = None
    active: Tensor | None = None
    first_chain: int = 0
    velocity: Tensor | None = None
