"""Similarity of samples within a layer, and of layers with each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geomfast.estimators.arguments import check_flag
from geomfast.estimators.spectra import check_samples
from geomfast.kernels.checks import all_finite, not_finite_error

#: Samples that the unbiased estimator of HSIC takes at least.
LEAST_DEBIASED = 4


class MeanCosine(NamedTuple):
    """Mean cosine between different samples.

    Attributes:
        mean: (...) float64, -1 / (N - 1) to 1; NaN where a sample is zero, as it has no direction.
        stderr: (...) by leaving out one sample at a time.
    """

    mean: Tensor
    stderr: Tensor


def anisotropy(x: Tensor) -> MeanCosine:
    r"""Mean cosine between the activations of different samples.

    $\frac{1}{N (N - 1)} \sum_{i \ne j} \cos(x_i, x_j)$ (Ethayarajh 2019, arXiv:1909.00512, section
    4.2): 0 where directions are even over the sphere, 1 where all samples point one way.

    Args:
        x: (..., N, d) activations, N >= 2, floating-point.

    Returns:
        The mean and its standard error.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: wrong shape, N < 2, NaN or infinity.

    Example:
        >>> anisotropy(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])).mean
        tensor(0.3333, dtype=torch.float64)
    """
    x = _finite(x)
    scale = x.abs().amax(-1, keepdim=True)
    x = x / torch.where(scale > 0, scale, torch.nan)
    return mean_cosine(x / x.square().sum(-1, keepdim=True).sqrt())


def mean_cosine(units: Tensor) -> MeanCosine:
    """Mean product of different rows of units (..., N, d) float64, of length 1 or NaN."""
    total = units.sum(-2)
    return mean_of_pairs((units * total[..., None, :]).sum(-1) - 1.0)


def mean_of_pairs(rows: Tensor) -> MeanCosine:
    """Mean over ordered pairs of different samples, and its jackknife error.

    Args:
        rows: (..., N) sum over the other samples of what each pair has, which is symmetric.
    """
    n = rows.shape[-1]
    total = rows.sum(-1, keepdim=True)
    mean = total / (n * (n - 1))
    if n < 3:
        return MeanCosine(mean.squeeze(-1), torch.full_like(mean, torch.nan).squeeze(-1))
    left_out = (total - 2.0 * rows) / ((n - 1) * (n - 2))
    around = (left_out - left_out.mean(-1, keepdim=True)).square().sum(-1)
    return MeanCosine(mean.squeeze(-1), ((n - 1) / n * around).sqrt())


def cka(x: Tensor, y: Tensor, *, debiased: bool = True) -> Tensor:
    r"""Linear centered kernel alignment of two representations of the same samples.

    $\mathrm{HSIC}(K, L) / \sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}$ with $K = X X^\top$ and
    $L = Y Y^\top$ (Kornblith et al. 2019, arXiv:1905.00414, equation 3). With `debiased`, HSIC is
    the unbiased estimator of Song et al. 2012 (JMLR 13, equation 5), as in Nguyen et al. 2021
    (arXiv:2010.15327, equation 2): without it, any two representations whose width is near N or
    above are alike. It does not depend on scales, rotations or means.

    Args:
        x: (..., N, d) activations, N >= 4 for `debiased` and 2 otherwise, floating-point.
        y: (..., N, e) activations of the same samples, on the same device; leading dimensions
            broadcast with those of x.
        debiased: use the unbiased estimator, which may lie a little outside of 0 to 1.

    Returns:
        (...) float64; NaN where one of them does not vary over samples.

    Raises:
        TypeError: x or y is not a floating-point tensor; debiased is not a bool.
        ValueError: wrong shapes, another N, too few samples, NaN or infinity.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [1.0, 3.0], [0.0, 0.0]])
        >>> cka(x, 3 * x[:, [1, 0]])
        tensor(1., dtype=torch.float64)
    """
    check_flag(debiased=debiased)
    own, other = (
        kernel_matrix(each, name, debiased=debiased) for name, each in (("x", x), ("y", y))
    )
    if own.shape[-1] != other.shape[-1]:
        raise ValueError(
            f"x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)} must have the same N"
        )
    return alignment(own, other)


def kernel_matrix(x: Tensor, argument: str = "x", *, debiased: bool = True) -> Tensor:
    """Centered linear kernel (..., N, N) of unit norm: :func:`alignment` of two is their CKA.

    Args:
        x: (..., N, d) activations.
        argument: what x is called in messages.
        debiased: for the unbiased estimator: U-centered (Szekely and Rizzo 2014, equation 3.1),
            with zeros on the diagonal.

    Returns:
        float64; NaN where x does not vary over samples.

    Raises:
        TypeError, ValueError: as :func:`cka`.
    """
    x = _finite(x, argument)
    n = x.shape[-2]
    if debiased and n < LEAST_DEBIASED:
        raise ValueError(
            f"{argument} of shape {tuple(x.shape)} has N = {n} samples; "
            f"{LEAST_DEBIASED} or more are needed for debiased=True"
        )
    size = x.square().sum((-2, -1))
    x = x - x.mean(-2, keepdim=True)
    # What rounding leaves of samples that are all alike has no direction.
    varies = x.square().sum((-2, -1)) > 1e-26 * size
    kernel = x @ x.mT
    if debiased:
        # U-centering of a kernel and of the same kernel centered are one; diagonals are left out.
        kernel = kernel - torch.diag_embed(kernel.diagonal(dim1=-2, dim2=-1))
        rows = kernel.sum(-1) / (n - 2)
        total = kernel.sum((-2, -1)) / ((n - 1) * (n - 2))
        kernel = kernel - rows[..., :, None] - rows[..., None, :] + total[..., None, None]
        kernel = kernel - torch.diag_embed(kernel.diagonal(dim1=-2, dim2=-1))
    norm = kernel.square().sum((-2, -1)).sqrt()
    return kernel / torch.where(varies & (norm > 0), norm, torch.nan)[..., None, None]


def alignment(own: Tensor, other: Tensor) -> Tensor:
    """Products (...) of kernels of :func:`kernel_matrix`, whose leading dimensions broadcast."""
    return (own * other).sum((-2, -1))


def _finite(x: Tensor, argument: str = "x") -> Tensor:
    """Samples as float64, scaled by the largest entry of each matrix.

    Raises:
        TypeError, ValueError: as :func:`geomfast.rankme`.
    """
    check_samples(x, argument)
    x = x.detach()
    if not all_finite(x):
        raise not_finite_error(x, argument)
    x = x.double()
    if x.numel() == 0:
        return x
    scale = x.abs().amax((-2, -1), keepdim=True)
    return x / torch.where(scale > 0, scale, 1.0)
