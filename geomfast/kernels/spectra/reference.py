"""Backend "reference": the float64 singular value decomposition that defines the right answer."""

import torch

from geomfast.kernels.checks import all_finite, not_finite_error


def singular_values(x: torch.Tensor) -> torch.Tensor:
    """(..., N, d) -> (..., min(N, d)) float64, descending."""
    if not all_finite(x):
        raise not_finite_error(x)
    return torch.linalg.svdvals(x.double())
