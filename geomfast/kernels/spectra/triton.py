"""Backend "triton": Gram matrices by a Triton kernel, their eigenvalues by torch.

Supports CUDA tensors, and CPU tensors under Triton's interpreter (`TRITON_INTERPRET=1`, for tests).
"""

import torch

from geomfast.kernels.checks import not_finite_error
from geomfast.kernels.spectra.eager import values_of_gram
from geomfast.kernels.spectra.scaling import power_of_two


def gram_and_scale(x: torch.Tensor, *, mirrored: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(B, N, d) of any floating-point type -> float64 Gram matrices (B, n, n) of x / scale.

    Args:
        x: the matrices, any strides.
        mirrored: write the upper triangle too.

    Returns:
        The Gram matrices and the (B,) powers of two that x was divided by; None for 1.
    """
    from geomfast.kernels.spectra.gram_kernel import gram_matrices

    scale = power_of_two(x)
    return gram_matrices(x, None if scale is None else scale.reciprocal(), mirrored), scale


def singular_values(x: torch.Tensor) -> torch.Tensor:
    """(..., N, d) -> (..., min(N, d)) float64, descending."""
    gram, scale = gram_and_scale(x.reshape(-1, *x.shape[-2:]), mirrored=False)
    # NaN and infinity reach the trace; torch waits for the eigenvalues anyhow, so this may too.
    if not torch.isfinite(gram.diagonal(dim1=-2, dim2=-1).sum()):
        raise not_finite_error(x)
    values = values_of_gram(gram)
    if scale is not None:
        values = values * scale[:, None]
    return values.reshape(*x.shape[:-2], -1)
