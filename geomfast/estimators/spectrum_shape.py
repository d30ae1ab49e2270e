"""Shape of a singular spectrum: its decay, and how many of its values matter, by several counts.

Every function takes the singular values that :func:`geomfast.singular_values` gives, of any number
of matrices at once, and works on their squares where its definition is one of the eigenvalues of
the covariance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geomfast.estimators.arguments import check_number, check_whole
from geomfast.estimators.spectra import check_spectrum

#: Singular values below this share of the largest are rounding: they come from a Gram matrix.
RESOLUTION = 1e-7
#: Points below which no line is fitted to a spectrum's decay.
LEAST_POINTS = 5


class Decay(NamedTuple):
    """Power law of a spectrum.

    Attributes:
        alpha: (...) exponent: the i-th eigenvalue falls as i^-alpha. NaN where too few eigenvalues
            are within the range of the fit.
        stderr: (...) of alpha, from the residuals of the line as though they were independent.
        r2: (...) share of the variance of log eigenvalues that the line explains, 0 to 1.
        points: (...) eigenvalues that the line is fitted to.
    """

    alpha: Tensor
    stderr: Tensor
    r2: Tensor
    points: Tensor


def participation_ratio(values: Tensor) -> Tensor:
    r"""Participation ratio of the eigenvalues of a covariance.

    $(\sum_k \lambda_k)^2 / \sum_k \lambda_k^2$ with $\lambda = \sigma^2$ (Gao et al. 2017,
    bioRxiv 214262, equation 3): k for k equal eigenvalues. Large eigenvalues count for more than
    in RankMe.

    Args:
        values: (..., k) singular values in any order, k >= 1, entries >= 0.

    Returns:
        (...) float64, between 1 and k; 0.0 for a spectrum of zeros.

    Raises:
        TypeError: values is not a floating-point tensor.
        ValueError: no dimension, k < 1, a negative entry, NaN or infinity (the first is named).

    Example:
        >>> participation_ratio(torch.tensor([1.0, 1.0, 0.0]))
        tensor(2., dtype=torch.float64)
    """
    shares, largest = _relative(values)
    return torch.where(largest > 0, shares.sum(-1).square() / _of_one(shares.square()), 0.0)


def stable_rank(values: Tensor) -> Tensor:
    r"""Stable rank: the squared Frobenius norm over the squared spectral norm.

    $\sum_k \sigma_k^2 / \sigma_1^2$ (Rudelson and Vershynin 2007, arXiv:math/0503442, section 1).

    Args:
        values: (..., k) singular values as in :func:`participation_ratio`.

    Returns:
        (...) float64, between 1 and k; 0.0 for a spectrum of zeros.

    Raises:
        TypeError, ValueError: as :func:`participation_ratio`.

    Example:
        >>> stable_rank(torch.tensor([2.0, 1.0, 1.0]))
        tensor(1.5000, dtype=torch.float64)
    """
    shares, largest = _relative(values)
    return torch.where(largest > 0, shares.sum(-1), 0.0)


def first_component_share(values: Tensor) -> Tensor:
    r"""Share of the first principal component in the sum of squares.

    $\sigma_1^2 / \sum_k \sigma_k^2$; the reciprocal of the stable rank.

    Args:
        values: (..., k) singular values as in :func:`participation_ratio`.

    Returns:
        (...) float64, between 1 / k and 1; NaN for a spectrum of zeros.

    Raises:
        TypeError, ValueError: as :func:`participation_ratio`.

    Example:
        >>> first_component_share(torch.tensor([2.0, 1.0, 1.0]))
        tensor(0.6667, dtype=torch.float64)
    """
    shares, largest = _relative(values)
    return torch.where(largest > 0, shares.sum(-1).reciprocal(), torch.nan)


def numerical_rank(values: Tensor, *, tol: float = 1e-6) -> Tensor:
    r"""Number of singular values above a share of the largest.

    Args:
        values: (..., k) singular values as in :func:`participation_ratio`.
        tol: share of the largest, 0 <= tol < 1. Values of :func:`geomfast.singular_values` that
            are zero come out at about 1e-8 of the largest, so ask for 1e-7 or more there.

    Returns:
        (...) float64, between 0 and k.

    Raises:
        TypeError: values is not a floating-point tensor; tol is not a number.
        ValueError: values as in :func:`participation_ratio`; tol out of range.

    Example:
        >>> numerical_rank(torch.tensor([1.0, 1e-3, 1e-9]))
        tensor(2., dtype=torch.float64)
    """
    check_number(tol=tol)
    if not 0.0 <= tol < 1.0:
        raise ValueError(f"tol must be 0 or more and less than 1, not {tol}")
    values = check_spectrum(values)
    return (values > tol * values.amax(-1, keepdim=True)).sum(-1).double()


def condition_number(values: Tensor, *, resolution: float = RESOLUTION) -> Tensor:
    r"""Condition number $\sigma_1 / \sigma_k$.

    Args:
        values: (..., k) all singular values of a matrix, as in :func:`participation_ratio`.
        resolution: smallest share of the largest value that is told from zero, 0 <= resolution < 1.

    Returns:
        (...) float64, 1 or more; infinity where the smallest value cannot be told from zero, NaN
        for a spectrum of zeros.

    Raises:
        TypeError: values is not a floating-point tensor; resolution is not a number.
        ValueError: values as in :func:`participation_ratio`; resolution out of range.

    Example:
        >>> condition_number(torch.tensor([4.0, 2.0]))
        tensor(2., dtype=torch.float64)
    """
    check_number(resolution=resolution)
    if not 0.0 <= resolution < 1.0:
        raise ValueError(f"resolution must be 0 or more and less than 1, not {resolution}")
    values = check_spectrum(values)
    largest, least = values.amax(-1), values.amin(-1)
    found = torch.where(least > resolution * largest, largest / least, torch.inf)
    return torch.where(largest > 0, found, torch.nan)


def alpha_req(values: Tensor, *, first: int = 5, last: int | None = 50) -> Decay:
    r"""Exponent of the decay of the eigenvalues of a covariance (alpha-ReQ).

    The slope of a line through $\log \lambda_i$ against $\log i$, with $\lambda = \sigma^2$ in
    descending order (Agrawal et al. 2022, "alpha-ReQ: assessing representation quality in
    self-supervised learning by measuring eigenspectrum decay", equation 1). Points have weight
    1 / i, as in Stringer et al. 2019 (Nature 571), so that each stretch of log i counts alike.
    Eigenvalues that a Gram matrix does not resolve are left out. The largest eigenvalues are left
    out too: the mean of samples that are not centered is among them, and few samples bend the
    other end of the spectrum upwards or down.

    Args:
        values: (..., k) singular values as in :func:`participation_ratio`.
        first: number of the first eigenvalue that the line is fitted to, from 1.
        last: number of the last one; None for all that are resolved.

    Returns:
        The exponent with its standard error, R2 and number of points, each (...) float64. NaN
        where fewer than 5 eigenvalues are within the range.

    Raises:
        TypeError: values is not a floating-point tensor; first or last is not a whole number.
        ValueError: values as in :func:`participation_ratio`; first < 1; fewer than 5 eigenvalues
            from first to last.

    Example:
        >>> alpha_req(torch.arange(1, 65, dtype=torch.float64) ** -0.5).alpha
        tensor(1.0000, dtype=torch.float64)
    """
    check_whole(1, most=2**31, first=first)
    if last is not None:
        check_whole(1, most=2**31, last=last)
        if last - first + 1 < LEAST_POINTS:
            raise ValueError(
                f"first = {first} to last = {last} are fewer than {LEAST_POINTS} eigenvalues"
            )
    values = check_spectrum(values).sort(-1, descending=True).values
    number = torch.arange(1, values.shape[-1] + 1, dtype=torch.float64, device=values.device)
    within = (number >= first) & (number <= (torch.inf if last is None else last))
    used = within & (values > RESOLUTION * values[..., :1])
    points = used.sum(-1).double()
    x = number.log().expand_as(values)
    y = 2.0 * torch.where(used, values, 1.0).log()
    weight = used / number
    total = _of_one(weight)
    x = x - ((weight * x).sum(-1) / total)[..., None]
    y = y - ((weight * y).sum(-1) / total)[..., None]
    spread = (weight * x * x).sum(-1)
    slope = (weight * x * y).sum(-1) / spread
    left = (weight * (y - slope[..., None] * x).square()).sum(-1)
    varied = (weight * y * y).sum(-1)
    # Of equal eigenvalues only rounding varies, of which a line explains nothing.
    explained = torch.where(varied > 1e-20, 1.0 - left / varied, torch.nan)
    stderr = (left / (points - 2) / spread).sqrt()
    enough = points >= LEAST_POINTS
    alpha, stderr, r2 = (
        torch.where(enough, found, torch.nan) for found in (-slope, stderr, explained)
    )
    return Decay(alpha, stderr, r2, points)


def _relative(values: Tensor) -> tuple[Tensor, Tensor]:
    """Squares over the largest square, so that no sum overflows; and the largest value."""
    values = check_spectrum(values)
    largest = values.amax(-1, keepdim=True)
    return (values / torch.where(largest > 0, largest, 1.0)).square(), largest.squeeze(-1)


def _of_one(terms: Tensor) -> Tensor:
    """Sum over the last dimension; 1 where it is zero, which is only divided by."""
    total = terms.sum(-1)
    return torch.where(total > 0, total, 1.0)
