"""Computations with products that have to be finite, and those of a symmetric matrix."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from geomfast.estimators.curvature.basis import rounding_allowed
from geomfast.estimators.curvature.lanczos import Asymmetric, random_vector
from geomfast.estimators.curvature.products import DataProducts
from geomfast.estimators.curvature.verify import wrong_second_derivatives

_Found = TypeVar("_Found")

#: Asymmetry of products from which rounding is told of: a value is no better than that.
LARGEST_ROUNDING = 1e-2


class NotConverged(UserWarning):
    """A result is not as good as was asked for."""


class Rounded(NotConverged):
    """Products with the Hessian are mostly rounding, as where the loss is next to zero."""


def finite(products: DataProducts, compute: Callable[[], _Found], *, whole: bool = True) -> _Found:
    """What is computed, with products that are finite and those of a symmetric matrix.

    Args:
        products: of the whole matrix.
        compute: by products.
        whole: whether by all of it, rather than by a block, which may have no curvature.
    """
    try:
        return compute()
    except FloatingPointError as error:
        raise _not_finite(products) from error
    except Asymmetric as error:
        asymmetry = error.asymmetry
        names = list(products.parameters)
        wrong = wrong_second_derivatives(
            products.model, products.loss_fn, products.batches[0], names
        )
        if wrong:
            raise ValueError(
                f"{error}: the second derivative of {', '.join(wrong)} is wrong; write it in plain "
                "torch operations, or leave its parameters out of params"
            ) from error
    # Blocks without curvature, of the biases of keys say, are rounding and nothing else.
    with rounding_allowed():
        found = compute()
    if whole and asymmetry > LARGEST_ROUNDING:
        warnings.warn(
            f"products with the Hessian are rounding to {asymmetry:.0%} of the largest, as where "
            "the loss is next to zero or the parameters have no curvature, and so is what comes of "
            "them; a model in float32 can be converted to float64: model.double()",
            Rounded,
            stacklevel=4,
        )
    return found


def _not_finite(products: DataProducts) -> ValueError:
    probe = random_vector(products.like, products.dimension, 0)
    return ValueError(
        f"a product with the Hessian is not finite: {products.where_not_finite(probe)}"
    )
