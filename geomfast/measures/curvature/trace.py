"""Trace of a symmetric matrix from its products with vectors.

Hutch++ (Meyer, Musco, Musco and Woodruff 2021, arXiv:2010.09649, algorithm 1): exact on the range
of a random sketch, Hutchinson's estimator on what is left.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from geomfast.measures.curvature.lanczos import Product, drawn_once


@dataclass(frozen=True)
class Trace:
    """An estimated trace.

    Attributes:
        mean: the estimate.
        stderr: its standard error, rounding included; of rounding alone where nothing was random.
        products: products computed.
    """

    mean: float
    stderr: float
    products: int


def hutch_plus_plus(
    product: Product, like: Tensor, dimension: int, probes: int, seed: int
) -> Trace:
    """Trace by a third of the probes for the sketch, a third for its part, a third for the rest.

    Args:
        product: (P,) -> (P,), symmetric.
        like: a tensor of the vectors' type and device.
        dimension: P.
        probes: products to spend, 6 or more unless P is not larger, when P of them are exact.
        seed: of the random signs.

    Raises:
        FloatingPointError: a product was not finite.
    """
    if dimension <= probes:
        basis = torch.eye(dimension, dtype=like.dtype, device=like.device)
        entries = torch.stack([product(row)[i] for i, row in enumerate(basis)]).double()
        if not torch.isfinite(entries).all():
            raise FloatingPointError("a product is not finite")
        rounding = torch.finfo(like.dtype).eps * entries.abs().sum().item()
        return Trace(entries.sum().item(), rounding, dimension)
    sketched = probes // 3
    counts = (sketched, probes - 2 * sketched)
    for_sketch, for_rest = drawn_once(
        ("signs", counts, dimension, seed), lambda: _bits(sum(counts), dimension, seed)
    ).split(counts)
    basis = _orthonormal(torch.stack([product(probe) for probe in _signs(for_sketch, like)]))
    inside = [_dot(row, product(row)).item() for row in basis]
    outside = []
    for probe in _signs(for_rest, like):
        rest = _without(basis, probe)
        outside.append(_dot(rest, product(rest)).item())
    if not all(map(math.isfinite, [*inside, *outside])):
        raise FloatingPointError("a product is not finite")
    left = statistics.fmean(outside)
    sampling = statistics.stdev(outside) / math.sqrt(len(outside))
    size = sum(abs(x) for x in inside) + statistics.fmean(abs(x) for x in outside)
    rounding = torch.finfo(like.dtype).eps * size
    return Trace(sum(inside) + left, math.hypot(sampling, rounding), probes)


def _bits(rows: int, dimension: int, seed: int) -> Tensor:
    """(rows, P) int8, 0 and 1 at random."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, dimension)
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.int8, device="cpu")


def _signs(bits: Tensor, like: Tensor) -> Iterator[Tensor]:
    """(P,) -1 and 1 for every row of (rows, P) 0 and 1.

    On the CPU made together: where a row begins in memory decides how sums of its entries are
    rounded, and results are to stay as they were. Elsewhere made one at a time: on the way they
    take a byte an entry, and many would fill the device.
    """
    if like.device.type == "cpu":
        yield from (2 * bits - 1).to(like)
        return
    for row in bits:
        yield (2 * row.to(like.device) - 1).to(like)


def _orthonormal(rows: Tensor) -> Tensor:
    """(m, P) orthonormal rows that span the given ones, by Gram-Schmidt done twice.

    Rows that depend on those before them are left out.
    """
    basis = rows.new_empty((0, rows.shape[1]))
    for row in rows:
        length = torch.linalg.vector_norm(row)
        row = _without(basis, _without(basis, row))
        beyond = torch.linalg.vector_norm(row)
        if beyond > 1e-5 * length:
            # Once more at unit length: what was left may have been mostly rounding.
            row = _without(basis, row / beyond)
            basis = torch.cat([basis, (row / torch.linalg.vector_norm(row))[None]])
    return basis


def _without(basis: Tensor, v: Tensor) -> Tensor:
    return torch.addmv(v, basis.mT, basis @ v, alpha=-1.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """In float64 without a copy in it: sums of blocks."""
    return (a * b).sum(dtype=torch.float64)
