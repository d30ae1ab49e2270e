"""Autograd functions whose second derivatives cost few passes over memory.

Each is a pair. The first computes y = f(x) and keeps what f's derivatives at x are made of. Its
backward applies the second, which computes x_bar = f'(x)^T y_bar and keeps what does not change
from one product with the Hessian to the next. A product arrives at the second with the tangent of
x_bar, and at the first with that of y_bar.

The first has further outputs, tokens, which nobody reads: the second takes them in place of x, so
that what it has for x arrives at the first together with the tangent of y_bar, and both are added
up there, in place. A token has the shape of what arrives by it and the memory of one number.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Exact(torch.autograd.Function):
    """A first one, whose second derivative is known to be right."""

    exact_second_derivative = True


def token(shape: torch.Size, like: Tensor) -> Tensor:
    return torch.empty_strided(shape, (0,) * len(shape), dtype=like.dtype, device=like.device)


def refuse_third() -> None:
    """Raises in a backward pass that is to be differentiated again (create_graph=True)."""
    if torch.is_grad_enabled():
        raise RuntimeError("a product with the Hessian cannot be differentiated again")
