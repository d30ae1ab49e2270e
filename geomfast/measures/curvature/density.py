"""Spectral density of a symmetric matrix from its products with vectors.

Stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017, "Fast estimation of tr(f(A)) via
stochastic Lanczos quadrature"; Ghorbani et al. 2019, arXiv:1901.10159, for Hessians of networks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geomfast.measures.curvature.lanczos import BASIS_BYTES, Basis, Product, random_start

_POINTS = 1024


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
        width: standard deviation of the Gaussian on every node; a hundredth of the span for None.
    """
    steps = min(iterations, dimension)
    nodes = torch.full((probes, steps), math.nan, dtype=torch.float64, device="cpu")
    weights = torch.zeros((probes, steps), dtype=torch.float64, device="cpu")
    for i in range(probes):
        start = random_start(like, dimension, 1000 * seed + i)
        values, shares = _quadrature(product, start, steps)
        nodes[i, : len(values)], weights[i, : len(values)] = values, shares
    lowest, highest = nodes[~nodes.isnan()].min().item(), nodes[~nodes.isnan()].max().item()
    span = highest - lowest
    # A single eigenvalue has no span of its own.
    width = width or 0.01 * span or 0.01 * abs(highest) or 1.0
    grid = torch.linspace(
        lowest - 6 * width, highest + 6 * width, _POINTS, dtype=torch.float64, device="cpu"
    )
    step = (grid[1] - grid[0]).item()
    if width < 2 * step:
        raise ValueError(
            f"width {width:.3g} is too narrow for {_POINTS} points over {span:.3g}: at least "
            f"{2.5 * span / _POINTS:.3g}"
        )
    distance = (grid - nodes.nan_to_num(0.0)[..., None]) / width
    bells = torch.exp(-0.5 * distance**2) / (width * math.sqrt(2 * math.pi))
    each = (weights[..., None] * bells).sum(1)
    stderr = each.std(0) / math.sqrt(probes) if probes > 1 else torch.full_like(grid, math.nan)
    return Density(grid, each.mean(0), stderr, nodes, weights, width)


def _quadrature(product: Product, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of one probe's Gauss quadrature."""
    if (steps + 1) * start.numel() * start.element_size() > BASIS_BYTES:
        projected, beyond = _without_basis(product, start, steps)
    else:
        basis = Basis(product, start, steps, lambda: start)
        for _ in range(steps):
            basis.extend()
        projected, beyond = basis.projected.cpu(), basis.beyond.cpu()
    if not torch.isfinite(projected).all():
        raise FloatingPointError("a product is not finite")
    # A step of length zero: what follows belongs to no part of the start.
    ends = [j + 1 for j in range(steps) if beyond[j] == 0.0]
    size = ends[0] if ends else steps
    values, vectors = torch.linalg.eigh(projected[:size, :size])
    return values, vectors[0] ** 2


def _without_basis(product: Product, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Projected matrix and off-diagonal by the three-term recurrence: a basis does not fit.

    Orthogonality is lost as eigenvalues converge; they then appear again, and share their weight.
    """
    projected = torch.zeros((steps, steps), dtype=torch.float64, device=start.device)
    off_diagonal = projected.new_zeros(steps)
    before, v = torch.zeros_like(start), start / torch.linalg.vector_norm(start)
    beyond = start.new_zeros(())
    for j in range(steps):
        w = product(v) - beyond * before
        along = torch.dot(w, v)
        w = w - along * v
        beyond = torch.linalg.vector_norm(w)
        projected[j, j] = along
        off_diagonal[j] = beyond
        if j + 1 < steps:
            projected[j + 1, j] = projected[j, j + 1] = beyond
        before, v = v, w / beyond.clamp_min(torch.finfo(w.dtype).tiny)
    return projected.cpu(), off_diagonal.cpu()
