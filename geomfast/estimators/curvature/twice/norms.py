"""Norms of rows: y = n w + b, where n is a row over its root mean square, centred or not.

With r = 1 / the root mean square and <.> a row's mean, the Jacobian of n is symmetric:
J u = r (u - <u> - n <n u>) of a centred row, and r (u - n <n u>) of another one. For the adjoint a
of n and c = J a, the derivative of c along a tangent x. of the row, a held, is

    - r (<n x.> c + <n a> n. + <c x.> n),    n. = J x.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geomfast.estimators.curvature.twice.pairs import Exact, refuse_third, token


@dataclass
class Normed:
    """Rows that have been normed.

    Attributes:
        rows: (M, d) n, in memory of its own.
        scale: (M, 1) r.
        centered: whether the mean was taken off.
    """

    rows: Tensor
    scale: Tensor
    centered: bool


def norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, made: Normed, y: Tensor) -> Tensor:
    """The value y, which has no graph, with one that leads to x, weight and bias.

    Args:
        x: (M, d), requires gradients.
        weight: (d,) w.
        bias: (d,) b; there is a weight if there is a bias.
        made: of x.
        y: (M, d), in memory of its own.
    """
    return _Norm.apply(x, weight, bias, (made, y))[0]


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    with torch.no_grad():
        y, mean, scale = torch.native_layer_norm(x, [x.shape[1]], weight, bias, eps)
        made = Normed((x - mean).mul_(scale), scale, True)
    return norm(x, weight, bias, made, y)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    with torch.no_grad():
        scale = x.square().mean(1, keepdim=True).add_(eps).rsqrt_()
        rows = x * scale
        y = rows.clone() if weight is None else rows * weight
    return norm(x, weight, None, Normed(rows, scale, False), y)


def _projected(u: Tensor, made: Normed, weight: Tensor | None) -> Tensor:
    """(M, d): J (w u) / r."""
    n = made.rows
    if made.centered:
        return _aten(u, n, weight, [True, False, False])[0]
    u = u if weight is None else u * weight
    return torch.addcmul(u, n, (n * u).mean(1, keepdim=True), value=-1)


def _summed(u: Tensor, v: Tensor) -> Tensor:
    """(d,) sum of u v over the rows."""
    return _aten(u, v, v[0], [False, True, False])[1]


def _aten(u: Tensor, n: Tensor, weight: Tensor | None, wanted: list[bool]) -> tuple[Tensor, ...]:
    """A layer norm's backward pass, of rows with mean 0 and deviation 1."""
    mean = n.new_zeros(len(n), 1)
    return torch.ops.aten.native_layer_norm_backward(
        u, n, [n.shape[1]], mean, mean + 1, weight, None, wanted
    )


class _Norm(Exact):
    @staticmethod
    def forward(ctx, x, weight, bias, held):  # pyright: ignore[reportIncompatibleMethodOverride]
        # Not an argument of its own: autograd takes an argument that is returned for its view.
        made, y = held
        ctx.set_materialize_grads(False)
        with_x = token(x.shape, x)
        ctx.centered = made.centered
        ctx.save_for_backward(with_x, weight, made.rows, made.scale)
        return y, with_x

    @staticmethod
    def backward(ctx, y_bar, token_bar):  # pyright: ignore[reportIncompatibleMethodOverride]
        with_x, weight, rows, scale = ctx.saved_tensors
        made = Normed(rows, scale, ctx.centered)
        _, of_weight, of_bias, _ = ctx.needs_input_grad
        if y_bar is None:
            if token_bar is not None:
                refuse_third()
            return token_bar, None, None, None
        if token_bar is None and torch.is_grad_enabled():
            found = _NormBackward.apply(y_bar, with_x, weight, made, of_weight, of_bias)
            return *found, None
        if token_bar is not None:
            refuse_third()
        x_bar = _projected(y_bar, made, weight)
        x_bar = x_bar.mul_(scale) if token_bar is None else token_bar.addcmul_(x_bar, scale)
        weight_bar = _summed(y_bar, rows) if of_weight else None
        return x_bar, weight_bar, y_bar.sum(0) if of_bias else None, None


class _NormBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y_bar, with_x, weight, made, of_weight, of_bias):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        ctx.centered = made.centered
        x_bar = _projected(y_bar, made, weight).mul_(made.scale)
        n_bar = y_bar if weight is None else y_bar * weight
        along = (made.rows * n_bar).mean(1, keepdim=True)
        kept = None if weight is None else y_bar
        ctx.save_for_backward(kept, weight, made.rows, made.scale, x_bar, along)
        weight_bar = _summed(y_bar, made.rows) if of_weight else None
        return x_bar, weight_bar, y_bar.sum(0) if of_bias else None

    @staticmethod
    def backward(ctx, x_dot, weight_dot, bias_dot):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_third()
        y_bar, weight, rows, scale, x_bar, along = ctx.saved_tensors
        made = Normed(rows, scale, ctx.centered)
        of_y, _, of_weight, *_ = ctx.needs_input_grad
        y_dot = to_x = to_weight = None
        if weight_dot is not None:
            to_x = _projected(y_bar, made, weight_dot)
        if x_dot is not None:
            n_dot = _projected(x_dot, made, None).mul_(scale)
            width = rows.shape[1]
            passed = (rows * x_dot).sum(1, keepdim=True).div_(-width)
            pulled = (x_bar * x_dot).sum(1, keepdim=True).div_(-width)
            first = torch.mul(x_bar, passed) if to_x is None else to_x.addcmul_(x_bar, passed)
            to_x = first.addcmul_(rows, pulled).addcmul_(n_dot, along, value=-1)
            to_weight = _summed(y_bar, n_dot) if of_weight else None
            y_dot = n_dot if weight is None else n_dot.mul_(weight)
        if of_y and weight_dot is not None:
            y_dot = rows * weight_dot if y_dot is None else y_dot.addcmul_(rows, weight_dot)
        if of_y and bias_dot is not None:
            # Of a sum over rows: the same for all of them.
            y_dot = bias_dot.expand(rows.shape) if y_dot is None else y_dot.add_(bias_dot)
        if to_x is not None:
            to_x = to_x.mul_(scale)
        return y_dot if of_y else None, to_x, to_weight, None, None, None
