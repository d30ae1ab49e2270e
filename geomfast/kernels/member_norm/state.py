"""What the way there leaves for the way back."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

#: Added to the variance, as in torch's LayerNorm.
EPS = 1e-5


class MemberNorm(NamedTuple):
    """LayerNorm of C members' M tokens of d numbers.

    Attributes:
        x: (C, M, d) float32 or float64, contiguous: the tokens.
        gain, bias: (C, d), numbers of a member beside each other, rows of both as far apart.
        statistics: (C, M, 2) mean and reciprocal deviation of the tokens; the way there writes
            them, the way back reads them.
        eps: added to the variance.
    """

    x: Tensor
    gain: Tensor
    bias: Tensor
    statistics: Tensor
    eps: float = EPS
