"""Diagonal of the Hessian of the mean loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from geomfast.estimators.arguments import check_flag, check_seed, check_whole
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.curvature.diagonal import Diagonal, estimated_diagonal, exact_diagonal
from geomfast.estimators.curvature.prepared import checked_products
from geomfast.estimators.curvature.sound import finite
from geomfast.estimators.hessian import Matrix

#: Most parameter entries of which an exact diagonal is computed, by a product for each.
MOST_EXACT = 10_000


def hessian_diagonal(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    probes: int = 100,
    exact: bool = False,
    seed: int = 0,
    matrix: Matrix = "hessian",
    params: Iterable[str] | None = None,
) -> Diagonal:
    r"""Diagonal of the Hessian of the mean loss: the curvature along every single parameter entry.

    The mean of $x \odot Hx$ over vectors x of random signs (Bekas, Kokiopoulou and Saad 2007, "An
    estimator for the diagonal of a matrix", equation 3). The variance of an entry's sample is the
    sum of the squares of the other entries of its row: rows with large entries off the diagonal
    need many probes.

    Args:
        model, loss_fn, data, matrix, params: as in `hessian_top_eigenvalues`.
        probes: number of products, 6 or more.
        exact: compute every entry by a product of its own, of at most 10,000 entries in all. Done
            anyway where the parameters have at most `probes` entries.
        seed: seed of the random signs.

    Returns:
        `mean` and `stderr` (P,) float64 on the parameters' device, in units of the loss per squared
        unit of the parameters; `mean_by_parameter()` and `stderr_by_parameter()`, the same in the
        parameters' shapes; `products`. Each entry's standard error comes from its own samples: of
        many entries about 5 in 100 lie outside of mean +- 2 stderr.

    Raises:
        TypeError, ValueError: as `hessian_top_eigenvalues`; exact with too many entries.

    Examples:
        >>> import geomfast as gf
        >>> import torch
        >>> net, x = torch.nn.Linear(3, 1, bias=False), torch.diag(torch.tensor([1.0, 2.0, 3.0]))
        >>> found = gf.hessian_diagonal(net, lambda m, b: m(b)[:, 0] ** 2, x, exact=True)
        >>> [round(value, 3) for value in found.mean.tolist()]  # of 2 x^T x / 3
        [0.667, 2.667, 6.0]
    """
    check_whole(1, probes=probes)
    check_flag(exact=exact)
    check_seed(seed)
    if probes < 6:
        raise ValueError(f"probes must be 6 or more, not {probes}")
    with checked_products(model, loss_fn, data, params, matrix) as products:
        size, like = products.dimension, products.like
        if exact and size > MOST_EXACT:
            raise ValueError(
                f"exact=True takes a product for each of the parameters' {size:,} entries, of "
                f"which there may be {MOST_EXACT:,} at most: choose some by params, or take probes"
            )
        every = exact or size <= probes
        products.replay.expected = size + 2 if every else probes
        mean, stderr = finite(
            products,
            lambda: (
                exact_diagonal(products, like, size)
                if every
                else estimated_diagonal(products, like, size, probes, seed)
            ),
        )
        shapes = {name: p.shape for name, p in products.parameters.items()}
        return Diagonal(mean, stderr, size + 2 if every else probes, shapes)
