"""Backend "torch": eigenvalues of the float64 Gram matrix of the smaller side, on any device."""

import torch

from geomfast.kernels.checks import all_finite, not_finite_error
from geomfast.kernels.spectra.scaling import power_of_two


def gram_and_scale(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(..., N, d) -> float64 Gram matrices (..., n, n) of x / scale; scale (...), None for 1."""
    scale = power_of_two(x)
    y = x.double()
    if scale is not None:
        y = y / scale[..., None, None]
    return (y @ y.mT if x.shape[-2] <= x.shape[-1] else y.mT @ y), scale


def values_of_gram(gram: torch.Tensor) -> torch.Tensor:
    """Float64 Gram matrices (..., n, n), lower triangles -> singular values (..., n), descending.

    Rounding turns eigenvalues that are zero into a cloud around zero, as many of it positive as
    negative. So for every negative one the smallest positive one goes too, if it is of that size:
    hundreds of roots of rounding errors would otherwise add up in RankMe (3e-5 at exact rank one
    and n = 768, instead of 5e-7).
    """
    squares = torch.linalg.eigvalsh(gram)  # ascending
    negative = (squares < 0).sum(-1, keepdim=True)
    cloud = torch.arange(squares.shape[-1], device=squares.device) < 2 * negative
    noise = cloud & (squares <= -2.0 * squares[..., :1])
    return squares.masked_fill(noise, 0.0).clamp_min(0.0).sqrt().flip(-1)


def singular_values(x: torch.Tensor) -> torch.Tensor:
    """(..., N, d) -> (..., min(N, d)) float64, descending."""
    if not all_finite(x):
        raise not_finite_error(x)
    gram, scale = gram_and_scale(x)
    values = values_of_gram(gram)
    return values if scale is None else values * scale[..., None]
