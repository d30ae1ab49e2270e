"""Intrinsic dimension of samples from the distances to their two nearest neighbours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geomfast.estimators.arguments import check_number
from geomfast.estimators.spectra import check_samples
from geomfast.kernels.checks import all_finite, not_finite_error

#: Distinct samples below which no dimension is estimated.
LEAST_SAMPLES = 20
#: Samples nearer to each other than this share of their root-mean-square norm are one sample, as
#: activations of one input differ by rounding; of other types, than their precision.
_SAME = {torch.float64: 1e-12, torch.float32: 1e-5}
#: The same as a share of the norm of centered samples, by what squared distances resolve.
_RESOLVED = 1e-7
#: Largest share of samples whose nearest is not twice as far as what is one sample.
_BLURRED = 0.05
#: Groups of samples that are left out in turn for the standard error.
_GROUPS = 20
#: Bytes of distances at once.
_CHUNK_BYTES = 1 << 28


class IntrinsicDimension(NamedTuple):
    """Estimates of an intrinsic dimension.

    Attributes:
        mean: (...) float64; NaN where there are fewer than 20 distinct samples, and where
            distances between neighbours, or what tells them apart, are within rounding.
        stderr: (...) by leaving out a twentieth of the samples at a time, of which those that are
            each other's nearest go together.
        samples: (...) distinct samples.
    """

    mean: Tensor
    stderr: Tensor
    samples: Tensor


def two_nn(x: Tensor, *, fraction: float = 0.9) -> IntrinsicDimension:
    r"""Intrinsic dimension of the set that samples lie on (TwoNN).

    The ratios $\mu = r_2 / r_1$ of the distances to the second and the first neighbour follow
    $F(\mu) = 1 - \mu^{-d}$ where the density is even over that distance; d is the slope of a line
    through the origin of $-\log(1 - F)$ against $\log \mu$ (Facco et al. 2017,
    doi:10.1038/s41598-017-11873-y, equation 5), without the largest ratios. Copies of a sample
    count once. It does not depend on the scale of x or on rotations.

    Args:
        x: (..., N, d) samples, floating-point.
        fraction: of the ratios, smallest first, that the line is fitted to; above 0, up to 1. The
            very largest is never used, as it has no finite logarithm.

    Returns:
        The dimension, its standard error and the number of distinct samples.

    Raises:
        TypeError: x is not a floating-point tensor; fraction is not a number.
        ValueError: x has the wrong shape, N < 2, NaN or infinity; fraction out of range.

    Example:
        >>> x = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
        >>> bool((two_nn(x).mean - 2).abs() < 0.2)
        True
    """
    check_number(fraction=fraction)
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction must be above 0 and at most 1, not {fraction}")
    check_samples(x)
    if not all_finite(x):
        raise not_finite_error(x)
    matrices = x.detach().reshape(-1, *x.shape[-2:])
    at_once = max(1, _CHUNK_BYTES // (8 * x.shape[-2] ** 2))
    found = [_of_chunk(part, fraction) for part in matrices.split(at_once)]
    shape = x.shape[:-2]
    if not found:
        empty = x.new_empty(shape, dtype=torch.float64)
        return IntrinsicDimension(empty, empty.clone(), empty.clone())
    return IntrinsicDimension(
        *(torch.cat(part).reshape(shape) for part in zip(*found, strict=True))
    )


def _of_chunk(x: Tensor, fraction: float) -> tuple[Tensor, Tensor, Tensor]:
    """Dimension, error and distinct samples, each (B,), of x (B, N, d)."""
    ratios, kept, leader, noise = _log_ratios(
        x.double(), _SAME.get(x.dtype, torch.finfo(x.dtype).eps)
    )
    samples = kept.sum(-1).double()
    ratios, order = torch.where(kept, ratios, torch.inf).sort(-1)
    group = leader.gather(-1, order) % _GROUPS
    found = _slope(ratios, torch.isfinite(ratios), fraction)
    left_out = torch.stack(
        [_slope(ratios, torch.isfinite(ratios) & (group != g), fraction) for g in range(_GROUPS)]
    )
    around = (left_out - left_out.mean(0)).square().sum(0)
    stderr = ((_GROUPS - 1) / _GROUPS * around).sqrt()
    # Where many samples are hardly further apart than what is one sample, that is not all copies.
    blurred = (kept & (noise > 0.5)).sum(-1) > _BLURRED * samples
    varied = _largest(ratios, fraction) > torch.where(kept, noise, torch.nan).nanmean(-1)
    enough = (samples >= LEAST_SAMPLES) & ~blurred & varied
    return torch.where(enough, found, torch.nan), torch.where(enough, stderr, torch.nan), samples


def _log_ratios(x: Tensor, same: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of every sample (B, N): log(r2 / r1); whether it is the first of its copies; its leader; the
    distance within which two samples are one, over r1.

    Two samples that are each other's nearest have one leader, as their ratios share a distance.
    """
    scale = x.abs().amax((-2, -1), keepdim=True)
    x = x / torch.where(scale > 0, scale, 1.0)
    nearest = same * _norm(x)
    x = x - x.mean(-2, keepdim=True)  # less to cancel
    nearest = torch.maximum(nearest, _RESOLVED * _norm(x))
    squares = x.square().sum(-1)
    distances = squares[..., :, None] + squares[..., None, :] - 2.0 * (x @ x.mT)
    distances = distances.clamp_min_(0.0).sqrt_()
    copies = distances <= nearest[..., None, None]
    kept = ~copies.tril(-1).any(-1)
    own = torch.arange(x.shape[-2], device=x.device).expand(kept.shape)
    if x.shape[-2] < 3:
        return torch.full_like(squares, torch.nan), kept, own, torch.zeros_like(squares)
    apart = torch.where(copies | ~kept[..., None, :], torch.inf, distances)
    two, which = apart.topk(2, dim=-1, largest=False)
    first = which[..., 0]
    mutual = first.gather(-1, first) == own
    leader = torch.where(mutual, torch.minimum(own, first), own)
    ratios = (two[..., 1] / two[..., 0]).log().nan_to_num(torch.inf, torch.inf)
    return ratios, kept, leader, nearest[..., None] / two[..., 0]


def _norm(x: Tensor) -> Tensor:
    """Root-mean-square norm (B,) of samples (B, N, d)."""
    return x.square().sum(-1).mean(-1).sqrt()


def _below(used: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Which of sorted log ratios (B, N) the line is fitted to, and F."""
    number = used.cumsum(-1).double()
    total = used.sum(-1, keepdim=True).double()
    return used & (number <= (fraction * total).floor()) & (number < total), number / total


def _largest(ratios: Tensor, fraction: float) -> Tensor:
    """Largest (B,) of the log ratios (B, N) that the line is fitted to."""
    below, _ = _below(torch.isfinite(ratios), fraction)
    return torch.where(below, ratios, 0.0).amax(-1)


def _slope(ratios: Tensor, used: Tensor, fraction: float) -> Tensor:
    """Slope (B,) of -log(1 - F) against sorted log ratios (B, N), over those that are used."""
    below, share = _below(used, fraction)
    x = torch.where(below, ratios, 0.0)
    y = torch.where(below, -torch.log1p(-share), 0.0)
    return (x * y).sum(-1) / (x * x).sum(-1)
