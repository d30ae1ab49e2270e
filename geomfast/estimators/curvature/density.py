"""Spectral density of a symmetric matrix from its products with vectors.

Stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017, "Fast estimation of tr(f(A)) via
stochastic Lanczos quadrature"; Ghorbani et al. 2019, arXiv:1901.10159, for Hessians of networks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geomfast.estimators.curvature.basis import EXHAUSTED, Basis, Product, require_symmetric
from geomfast.estimators.curvature.lanczos import BASIS_BYTES, random_start
from geomfast.estimators.curvature.rescaled import Rescaled, times_two_to

_POINTS = 1024
# Nodes are known to this many times the rounding of the largest: no width can be less.
_ROUNDING = 10
# Nor less than this many times that of the grid, whose points lie by a hundredth of it apart.
_GRID_ROUNDING = 1e4


@dataclass(frozen=True)
class Density:
    """A smoothed distribution of eigenvalues.

    Attributes:
        grid: (points,) float64 eigenvalues, ascending.
        density: (points,) float64, integrates to 1.
        stderr: (points,) float64 over probes; NaN for one probe.
        nodes: (probes, iterations) float64, the quadrature's own eigenvalues; NaN where a probe
            exhausted its space earlier.
        weights: (probes, iterations) float64, what they weigh; a probe's sum is 1.
        width: standard deviation of the Gaussian that smooths them.
    """

    grid: Tensor
    density: Tensor
    stderr: Tensor
    nodes: Tensor
    weights: Tensor
    width: float


def spectral_density(
    product: Product,
    like: Tensor,
    dimension: int,
    *,
    probes: int,
    iterations: int,
    seed: int,
    width: float | None = None,
) -> Density:
    """Density of the eigenvalues, each weighing 1 / P.

    Args:
        product: (P,) -> (P,), symmetric.
        like: a tensor of the vectors' type and device.
        dimension: P.
        probes: random starts.
        iterations: Lanczos steps of each.
        seed: of the starts.
        width: standard deviation of the Gaussian on every node; None for a hundredth of the span,
            or of the value where there is but one up to rounding.

    Raises:
        FloatingPointError: a product was not finite.
        Asymmetric: products are not those of a symmetric matrix.
        ValueError: a width that the grid or float64 cannot show.
    """
    scaled = Rescaled(product)
    steps = min(iterations, dimension)
    nodes = torch.full((probes, steps), math.nan, dtype=torch.float64, device="cpu")
    weights = torch.zeros((probes, steps), dtype=torch.float64, device="cpu")
    for i in range(probes):
        start = random_start(like, dimension, 1000 * seed + i)
        values, shares = _quadrature(scaled, start, steps)
        nodes[i, : len(values)], weights[i, : len(values)] = values, shares
    unit = scaled.exponent
    lowest, highest = nodes[~nodes.isnan()].min().item(), nodes[~nodes.isnan()].max().item()
    span, largest = highest - lowest, max(abs(lowest), abs(highest))
    rounding = largest * max(
        _ROUNDING * torch.finfo(like.dtype).eps, _GRID_ROUNDING * torch.finfo(torch.float64).eps
    )
    if width is None and span > rounding:
        width = max(0.01 * span, rounding)
    elif width is None:  # a single eigenvalue has no span of its own
        width = 0.01 * largest or 1.0
    else:
        width = times_two_to(width, -unit)
    grid = torch.linspace(
        lowest - 6 * width, highest + 6 * width, _POINTS, dtype=torch.float64, device="cpu"
    )
    step = (grid[1] - grid[0]).item()
    if not 0 < step < math.inf:
        raise ValueError(f"width {scaled.undone(width):.3g} cannot be shown in float64")
    if width < max(2 * step, rounding):
        raise ValueError(
            f"width {scaled.undone(width):.3g} is too narrow for {_POINTS} points over "
            f"{scaled.undone(span):.3g}, of values that are known to "
            f"{scaled.undone(rounding):.2g}: at least "
            f"{scaled.undone(max(2.5 * span / _POINTS, 1.01 * rounding)):.3g}"
        )
    distance = (grid - nodes.nan_to_num(0.0)[..., None]) / width
    bells = torch.exp(-0.5 * distance**2) / (width * math.sqrt(2 * math.pi))
    each = (weights[..., None] * bells).sum(1)
    stderr = each.std(0) / math.sqrt(probes) if probes > 1 else torch.full_like(grid, math.nan)
    density, stderr = times_two_to(each.mean(0), -unit), times_two_to(stderr, -unit)
    width = scaled.undone(width)
    return Density(scaled.undone(grid), density, stderr, scaled.undone(nodes), weights, width)


def _quadrature(product: Product, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of one probe's Gauss quadrature."""
    if (steps + 1) * start.numel() * start.element_size() > BASIS_BYTES:
        projected, beyond = _without_basis(product, start, steps)
    else:
        basis = Basis(product, start, steps, lambda: start)
        for _ in range(steps):
            basis.extend()
        projected, beyond = basis.projected.cpu(), basis.beyond.cpu()
        if torch.isfinite(projected).all():
            basis.size = _reached(beyond)
            basis.asymmetry(projected, beyond)
    if not torch.isfinite(projected).all():
        raise FloatingPointError("a product is not finite")
    size = _reached(beyond)
    values, vectors = torch.linalg.eigh(projected[:size, :size])
    return values, vectors[0] ** 2


def _reached(beyond: Tensor) -> int:
    """Steps up to one of length zero: what follows belongs to no part of the start."""
    return next((j + 1 for j, length in enumerate(beyond.tolist()) if length == 0.0), len(beyond))


def _without_basis(product: Product, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Projected matrix and off-diagonal by the three-term recurrence: a basis does not fit.

    Orthogonality is lost as eigenvalues converge; they then appear again, and share their weight.
    """
    projected = torch.zeros((steps, steps), dtype=torch.float64, device=start.device)
    off_diagonal, across = projected.new_zeros(steps), projected.new_zeros(steps)
    before, v = torch.zeros_like(start), start / torch.linalg.vector_norm(start)
    beyond = start.new_zeros(())
    for j in range(steps):
        w = product(v)
        length = torch.linalg.vector_norm(w)
        across[j] = torch.dot(w, before)
        w = w - beyond * before
        along = torch.dot(w, v)
        w = w - along * v
        beyond = torch.linalg.vector_norm(w)
        projected[j, j] = along
        off_diagonal[j] = torch.where(beyond > EXHAUSTED[w.dtype] * length, beyond, 0.0)
        if j + 1 < steps:
            projected[j + 1, j] = projected[j, j + 1] = beyond
        before, v = v, w / beyond.clamp_min(torch.finfo(w.dtype).tiny)
    projected, off_diagonal = projected.cpu(), off_diagonal.cpu()
    size = _reached(off_diagonal)
    expected, found = off_diagonal[: size - 1], across.cpu()[1:size]
    # A step that left little is orthogonal to the one before but for rounding, made larger by that.
    largest = projected[:size, :size].abs().max().item()
    if math.isfinite(largest):
        require_symmetric((found - expected)[expected > 0.01 * largest], largest)
    return projected, off_diagonal
