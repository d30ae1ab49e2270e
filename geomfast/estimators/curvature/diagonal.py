"""Diagonal of a symmetric matrix from its products with vectors.

Bekas, Kokiopoulou and Saad (2007), "An estimator for the diagonal of a matrix": the mean of
x * (A x) over random signs x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from geomfast.estimators.curvature.basis import Product, require_symmetric
from geomfast.estimators.curvature.lanczos import random_start
from geomfast.estimators.curvature.rescaled import Rescaled
from geomfast.estimators.curvature.vectors import unflattened


@dataclass(frozen=True)
class Diagonal:
    """The diagonal of a matrix of all parameters' entries.

    Attributes:
        mean: (P,) float64, the estimate of every entry.
        stderr: (P,) float64, its standard error, rounding included; of rounding alone where the
            diagonal is exact. For few probes it is widened until mean +- 2 stderr holds 95 of 100
            entries.
        products: products computed.
        shapes: of the parameters, by name, in the order of the entries.
    """

    mean: Tensor
    stderr: Tensor
    products: int
    shapes: Mapping[str, torch.Size]

    def mean_by_parameter(self) -> dict[str, Tensor]:
        """Views of the estimate in each parameter's shape, by its name."""
        return unflattened(self.mean, self.shapes)

    def stderr_by_parameter(self) -> dict[str, Tensor]:
        """Views of the standard error in each parameter's shape, by its name."""
        return unflattened(self.stderr, self.shapes)


def exact_diagonal(product: Product, like: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """Every entry by a product of its own, and two products more to see that it is symmetric.

    Args, returns, raises: as `estimated_diagonal`.
    """
    scaled = Rescaled(product)
    pair = [random_start(like, dimension, seed) for seed in (0, 1)]
    seen = torch.stack(pair) @ torch.stack([scaled(v) for v in pair], 1)
    _require_symmetric(seen)
    mean = like.new_empty(dimension, dtype=torch.float64)
    unit = like.new_zeros(dimension)
    for i in range(dimension):
        unit[i] = 1.0
        mean[i] = scaled(unit)[i]
        unit[i] = 0.0
    if not torch.isfinite(mean).all():
        raise FloatingPointError("a product is not finite")
    rounding = torch.finfo(like.dtype).eps * mean.abs()
    return scaled.undone(mean), scaled.undone(rounding)


def estimated_diagonal(
    product: Product, like: Tensor, dimension: int, probes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The mean of x * (A x) over random signs, and its standard error.

    Args:
        product: (P,) -> (P,), symmetric.
        like: a tensor of the vectors' type and device.
        dimension: P.
        probes: products, 2 or more.
        seed: of the random signs.

    Returns:
        (P,) and (P,) float64, on the device of `like`.

    Raises:
        FloatingPointError: a product was not finite.
        Asymmetric: products are not those of a symmetric matrix.
    """
    scaled = Rescaled(product)
    generator = torch.Generator().manual_seed(seed)
    mean = like.new_zeros(dimension, dtype=torch.float64)
    squares = torch.zeros_like(mean)
    before: tuple[Tensor, Tensor] | None = None
    for n in range(1, probes + 1):
        bits = torch.randint(
            0, 2, (dimension,), generator=generator, dtype=torch.int8, device="cpu"
        )
        signs = (2 * bits.to(like.device) - 1).to(like.dtype)
        found = scaled(signs)
        if before is not None:
            _require_symmetric(torch.stack([before[0], signs]) @ torch.stack([before[1], found], 1))
        before = signs, found
        # Welford's sums: squares less the square of the mean would lose digits.
        sample = (signs * found).double()
        away = sample - mean
        mean += away / n
        squares += away * (sample - mean)
    spread = (squares / (probes - 1)).sqrt()
    # Student's quantile makes up for samples that are few.
    student = float(stats.t.ppf(0.975, probes - 1) / stats.norm.ppf(0.975))
    sampling = student * spread / math.sqrt(probes)
    rounding = torch.finfo(like.dtype).eps * mean.abs()
    return scaled.undone(mean), scaled.undone(torch.hypot(sampling, rounding))


def _require_symmetric(seen: Tensor) -> None:
    """Of (2, 2) products u.Av of two vectors."""
    seen = seen.double().cpu()
    if not torch.isfinite(seen).all():
        raise FloatingPointError("a product is not finite")
    require_symmetric(seen - seen.mT, seen.abs().max().item())
