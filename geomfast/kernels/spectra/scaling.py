"""Powers of two that keep squares of float64 entries within range."""

import torch

# 2^-1000 and 2^1000 are normal numbers; what stays beyond them after scaling is harmless.
_LARGEST_EXPONENT = 1000


def power_of_two(x: torch.Tensor) -> torch.Tensor | None:
    """The power of two at the largest magnitude of each matrix, without synchronising.

    Args:
        x: (..., N, d) of any floating-point type.

    Returns:
        (...) float64; None where no scaling is needed: squares of float32 and smaller types always
        fit into float64.
    """
    if x.dtype != torch.float64:
        return None
    exponent = torch.frexp(x.abs().amax((-2, -1))).exponent
    return torch.exp2(exponent.clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT).double())
