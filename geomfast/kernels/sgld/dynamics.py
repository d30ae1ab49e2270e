"""What a Langevin step moves, and what it multiplies by what."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class RmsProp:
    """Preconditioner M = 1 / (sqrt(v) + stability), v the running mean of the squared gradient.

    Li et al. (2016), "Preconditioned stochastic gradient Langevin dynamics", arXiv:1512.07666,
    without the term that its equation 4 adds for the change of M, as is usual: where M follows the
    gradient closely draws spread too far. Coefficients of quadratics came out 2 to 34% too high,
    the more the curvatures differ and the smaller `decay` is. The mean starts at zero, so that the
    first steps are too large: give such chains a burn-in of several 1 / (1 - decay).

    Attributes:
        decay: of the mean, which starts at zero.
        stability: keeps M finite; in units of the gradient.
    """

    decay: float = 0.99
    stability: float = 0.1


@dataclass(frozen=True)
class Dynamics:
    """dw = -(lr/2) M [nbeta g + localization (w - center)] + sqrt(lr M) noise.

    Lau et al. (2023), arXiv:2308.12108, equation 9; M is 1 without a preconditioner.

    Attributes:
        lr: step size, epsilon in the papers.
        nbeta: inverse temperature times the number of samples.
        localization: strength of the pull to the center, gamma in the papers.
        preconditioner: None for none.
    """

    lr: float
    nbeta: float
    localization: float
    preconditioner: RmsProp | None = None

    @property
    def factors(self) -> dict[str, float]:
        """What the kernels multiply by, rounded to float32 so that all take the same."""
        found = {
            "pull": 0.5 * self.lr * self.nbeta,
            "back": 0.5 * self.lr * self.localization,
            "spread": math.sqrt(self.lr),
        }
        if self.preconditioner is not None:
            found["decay"] = self.preconditioner.decay
            found["stability"] = self.preconditioner.stability
        return {name: ctypes.c_float(value).value for name, value in found.items()}


class LangevinState(NamedTuple):
    """Chains of one seed: the tensors that a Langevin step reads and changes, and its dynamics.

    Attributes:
        weights: (C, P) float32 or float64, contiguous; changed.
        gradients: (C, P), of the loss at the weights.
        center: (P,), where the localization pulls to.
        dynamics: what a step multiplies by.
        seed: of the noise, 64 bits.
        square_average: (C, P), changed: state of the preconditioner; needed with one.
        previous: (C, P), changed: the weights before the last step, becomes those before this one.
            Without it the third number that a step returns is zero.
        active: (C,) bool, False for chains that stay as they are; None for all.
        first_chain: index of the first row's chain.
    """

    weights: Tensor
    gradients: Tensor
    center: Tensor
    dynamics: Dynamics
    seed: int
    square_average: Tensor | None = None
    previous: Tensor | None = None
    active: Tensor | None = None
    first_chain: int = 0
