"""Singular spectra of representations: singular values, RankMe, effective rank."""

from typing import NamedTuple

import torch

from geomfast.estimators.arguments import check_flag, check_number, check_values
from geomfast.kernels import spectra
from geomfast.kernels.checks import bad_entry_error


def check_samples(x: torch.Tensor, argument: str = "x") -> None:
    """Raises for what is no floating-point tensor (..., N, d) with N >= 2 samples."""
    spectra.check(x, argument)
    check_values(argument, x)
    if x.shape[-2] < 2:
        raise ValueError(
            f"{argument} of shape {tuple(x.shape)} has N = {x.shape[-2]} samples; N >= 2 is needed"
        )


class Spectrum(NamedTuple):
    """Singular values of matrices of samples.

    Attributes:
        values: (..., min(N, d)) float64, descending.
        samples, width: N and d.
    """

    values: torch.Tensor
    samples: int
    width: int

    def rankme(self, eps: float) -> torch.Tensor:
        """RankMe (...) of the matrices, see :func:`geomfast.rankme`."""
        return spectra.exp_entropy(self.values, eps)


def backend(x: torch.Tensor) -> str:
    """Name of the kernel backend that computes spectra of x; records store it beside the value."""
    return spectra.OP.backend_for(x)


def singular_values(x: torch.Tensor, *, center: bool = False) -> torch.Tensor:
    """Singular values of each matrix of samples.

    Computed from the float64 Gram matrix of the smaller side: the absolute error is about 1e-8 of
    the largest value for values near zero and far smaller for the others. Not differentiable.

    Args:
        x: (..., N, d) activations, N >= 2 samples of width d >= 1; float64, float32, bfloat16 or
            float16, any device, any strides. Not changed.
        center: subtract the mean over the N samples first, in float64.

    Returns:
        (..., min(N, d)) float64, descending, in the units of x, on the device of x.

    Raises:
        TypeError: x is not a floating-point tensor; center is not a bool.
        ValueError: wrong shape, N < 2, d < 1, sparse, on the meta device, NaN or infinity (the
            first one is named). The backend "cuda" does not wait for the GPU and so cannot raise
            about entries: the values of such a matrix are NaN there.

    Example:
        >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        tensor([4., 3.], dtype=torch.float64)
    """
    check_flag(center=center)
    check_samples(x)
    return spectra.singular_values(spectra.centered(x.detach()) if center else x)


def rankme(x: torch.Tensor, *, center: bool = False, eps: float = 0.0) -> torch.Tensor:
    r"""RankMe: the effective rank of the singular values of each matrix of samples.

    $\exp(-\sum_k p_k \log p_k)$ with $p_k = \sigma_k / \sum_j \sigma_j + \epsilon$ (Garrido et al.
    2023, arXiv:2210.02885, equation 1). The published variant has eps = 1e-5 or 1e-7 and counts
    every zero singular value a little: eps = 1e-5 turns an exactly rank-2 matrix with 512 singular
    values from 2.0 into 2.121. Report eps, center and N with every value.

    Args:
        x: (..., N, d) activations as in `singular_values`.
        center: subtract the mean over the N samples first, in float64.
        eps: a number >= 0 that is added to every share p.

    Returns:
        (...) float64, between 1 and min(N, d) for eps = 0; 0.0 for a matrix of zeros.

    Raises:
        TypeError: x is not a floating-point tensor; center is not a bool, or eps not a number.
        ValueError: x as in `singular_values`; eps is negative or not finite.

    Example:
        >>> rankme(torch.eye(5))
        tensor(5.0000, dtype=torch.float64)
    """
    check_flag(center=center)
    check_number(eps=eps)
    if not 0.0 <= eps < float("inf"):
        raise ValueError(f"eps must be finite and >= 0, not {eps}")
    check_samples(x)
    return spectra.rankme(x, center, eps)


def effective_rank(values: torch.Tensor) -> torch.Tensor:
    r"""Effective rank of a non-negative spectrum.

    $\exp(-\sum_k p_k \log p_k)$ with $p = v / \sum v$ and $0 \log 0 = 0$ (Roy and Vetterli 2007,
    "The effective rank", definition 1). Not differentiable.

    Args:
        values: (..., k) spectrum in any order and unit, k >= 1, entries >= 0.

    Returns:
        (...) float64, between 1 and k; 0.0 for a spectrum of zeros.

    Raises:
        TypeError: values is not a floating-point tensor.
        ValueError: no dimension, k < 1, a negative entry, NaN or infinity (the first is named).

    Example:
        >>> effective_rank(torch.tensor([1.0, 1.0, 0.0]))
        tensor(2.0000, dtype=torch.float64)
    """
    return spectra.exp_entropy(check_spectrum(values), 0.0)


def check_spectrum(values: torch.Tensor) -> torch.Tensor:
    """A spectrum as float64, detached.

    Raises:
        TypeError, ValueError: as `effective_rank`.
    """
    if not isinstance(values, torch.Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, torch.Tensor) else type(values).__name__
        raise TypeError(f"values must be a floating-point tensor, not {kind}")
    if values.dim() < 1 or values.shape[-1] < 1:
        raise ValueError(f"values must have shape (..., k), k >= 1, not {tuple(values.shape)}")
    check_values("values", values)
    values = values.detach()
    bad = ~(torch.isfinite(values) & (values >= 0))
    if bad.any():
        raise bad_entry_error(values, bad, "values", "finite and >= 0")
    return values.double()
