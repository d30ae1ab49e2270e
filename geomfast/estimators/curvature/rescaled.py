"""Products of a matrix of any scale, brought to where float32 can square them.

Lengths are roots of sums of squares: in float32 those of vectors below 1e-23 come out as zero, and
those above 1e19 as infinite. A loss in small units, or summed over much, has such a Hessian.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import overload

import torch
from torch import Tensor

from geomfast.estimators.stopping import check_stop

Product = Callable[[Tensor], Tensor]

#: Vectors whose largest entry lies between 2^-40 and 2^40 stay as they are, to the bit.
_EVERYDAY = 40


class Rescaled:
    """A product times a power of two, which is exact, found at the first one that is not zero.

    Args:
        product: (P,) -> (P,), linear.

    Attributes:
        exponent: what is returned is the product times 2^-exponent; 0 for matrices of everyday
            scale, and before the first product.
    """

    def __init__(self, product: Product):
        self.product = product
        self.exponent = 0
        self._found = False

    def __call__(self, v: Tensor) -> Tensor:
        """(P,) -> (P,)."""
        check_stop()
        w = self.product(v)
        if not self._found:
            exponent = exponent_of(w)
            self._found = exponent is not None
            self.exponent = exponent or 0
        return times_two_to(w, -self.exponent)

    @overload
    def undone(self, x: Tensor) -> Tensor: ...

    @overload
    def undone(self, x: float) -> float: ...

    def undone(self, x: Tensor | float) -> Tensor | float:
        """float64 eigenvalues, residuals and the like in the units of the matrix itself."""
        return times_two_to(x, self.exponent)


def exponent_of(x: Tensor) -> int | None:
    """That of a power of two near the largest entry of x, by absolute value; 0 in everyday's range.

    None where all are zero or one is not finite. Waits for the device.
    """
    largest = float(torch.linalg.vector_norm(x, ord=math.inf))
    if not 0.0 < largest < math.inf:
        return None
    exponent = math.frexp(largest)[1]
    return exponent if abs(exponent) > _EVERYDAY else 0


@overload
def times_two_to(x: Tensor, exponent: int) -> Tensor: ...


@overload
def times_two_to(x: float, exponent: int) -> float: ...


def times_two_to(x: Tensor | float, exponent: int) -> Tensor | float:
    """x * 2^exponent; x itself for 0. In two steps, as 2^140 is infinite in float32."""
    if exponent == 0:
        return x
    half = exponent // 2
    return x * 2.0**half * 2.0 ** (exponent - half)
