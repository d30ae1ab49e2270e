"""Backend "torch": eigenvalues of the float64 Gram matrix of the smaller side, on any device."""

import torch

from geomfast.kernels.checks import all_finite, not_finite_error

# 2^-1000 and 2^1000 are normal numbers; what stays beyond them after scaling is harmless.
_LARGEST_EXPONENT = 1000


def singular_values(x: torch.Tensor) -> torch.Tensor:
    """(..., N, d) float32 or float64 -> (..., min(N, d)) float64, descending."""
    if not all_finite(x):
        raise not_finite_error(x)
    wide = x.shape[-2] <= x.shape[-1]
    y = x.double()
    scale = None
    if x.dtype == torch.float64:  # squares of float32 numbers always fit into float64
        largest = y.abs().amax((-2, -1), keepdim=True)
        exponent = torch.frexp(largest).exponent.clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
        scale = torch.exp2(exponent.double())
        y = y / scale
    gram = y @ y.mT if wide else y.mT @ y
    values = torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt().flip(-1)
    return values if scale is None else values * scale.squeeze(-1)
