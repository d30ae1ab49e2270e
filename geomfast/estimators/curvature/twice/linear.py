"""y = x w^T + b, whose products of matrices add to each other's results."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.estimators.curvature.twice.pairs import Exact, refuse_third, token


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(M, d), (f, d) and (f,) -> (M, f)."""
    return _Linear.apply(x, weight, bias)[0]


class _Linear(Exact):
    @staticmethod
    def forward(ctx, x, weight, bias):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        tokens = token(x.shape, x), token(weight.shape, weight)
        ctx.save_for_backward(x, weight, *tokens)
        y = x @ weight.mT if bias is None else torch.addmm(bias, x, weight.mT)
        return y, *tokens

    @staticmethod
    def backward(ctx, y_bar, to_x, to_weight):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, *tokens = ctx.saved_tensors
        x, weight = x.detach(), weight.detach()
        of_bias = ctx.needs_input_grad[2]
        if torch.is_grad_enabled():
            if to_x is not None or to_weight is not None:
                refuse_third()
            if y_bar is None:
                return None, None, None
            return _LinearBackward.apply(y_bar, *tokens, x, weight, of_bias)
        if y_bar is None:
            return to_x, to_weight, None
        x_bar = y_bar @ weight if to_x is None else to_x.addmm_(y_bar, weight)
        weight_bar = y_bar.mT @ x if to_weight is None else to_weight.addmm_(y_bar.mT, x)
        return x_bar, weight_bar, y_bar.sum(0) if of_bias else None


class _LinearBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y_bar, with_x, with_weight, x, weight, of_bias):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y_bar, x, weight)
        return y_bar @ weight, y_bar.mT @ x, y_bar.sum(0) if of_bias else None

    @staticmethod
    def backward(ctx, x_dot, weight_dot, bias_dot):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_third()
        y_bar, x, weight = ctx.saved_tensors
        y_dot = to_x = to_weight = None
        if weight_dot is not None:
            to_x = y_bar @ weight_dot
            if bias_dot is None:
                y_dot = x @ weight_dot.mT
            else:
                y_dot = torch.addmm(bias_dot, x, weight_dot.mT)
        elif bias_dot is not None:
            y_dot = bias_dot.expand(y_bar.shape)
        if x_dot is not None:
            to_weight = y_bar.mT @ x_dot
            if weight_dot is None:
                product = x_dot @ weight.mT
                y_dot = product if y_dot is None else product.add_(y_dot)
            else:
                assert y_dot is not None
                y_dot.addmm_(x_dot, weight.mT)
        return y_dot, to_x, to_weight, None, None, None
