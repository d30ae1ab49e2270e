"""Functions of rows: softmax, its logarithm, and cross-entropy with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.estimators.curvature.twice.pairs import Exact, refuse_third, token


def softmax(x: Tensor, dim: int) -> Tensor:
    return _Softmax.apply(x, dim)[0]


def log_softmax(x: Tensor, dim: int) -> Tensor:
    return _LogSoftmax.apply(x, dim)[0]


def cross_entropy(x: Tensor, targets: Tensor, ignored: int) -> Tensor:
    """(M, V) logits, (M,) classes -> (M,) losses, 0 for the class that is ignored."""
    return _CrossEntropy.apply(x, targets, ignored)[0]


def softmax_backward(y_bar: Tensor, y: Tensor, dim: int) -> Tensor:
    """y (y_bar - sum y y_bar)."""
    return torch.ops.aten._softmax_backward_data(y_bar, y, dim, y.dtype)


class _Softmax(Exact):
    @staticmethod
    def forward(ctx, x, dim):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        ctx.dim = dim
        y, with_x = torch.softmax(x, dim), token(x.shape, x)
        ctx.save_for_backward(y, with_x)
        return y, with_x

    @staticmethod
    def backward(ctx, y_bar, token_bar):  # pyright: ignore[reportIncompatibleMethodOverride]
        y, with_x = ctx.saved_tensors
        y = y.detach()
        if token_bar is not None:
            refuse_third()
            total = token_bar if y_bar is None else token_bar.addcmul_(y, y_bar)
            return total.addcmul_(y, total.sum(ctx.dim, keepdim=True), value=-1), None
        if y_bar is None:
            return None, None
        if not torch.is_grad_enabled():
            return softmax_backward(y_bar, y, ctx.dim), None
        return _SoftmaxBackward.apply(y_bar, with_x, y, ctx.dim), None


class _SoftmaxBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y_bar, with_x, y, dim):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        ctx.dim = dim
        centered = y_bar - (y * y_bar).sum(dim, keepdim=True)
        ctx.save_for_backward(y, centered)
        return y * centered

    @staticmethod
    def backward(ctx, x_dot):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_third()
        if x_dot is None:
            return None, None, None, None
        y, centered = ctx.saved_tensors
        y_dot = softmax_backward(x_dot, y, ctx.dim)
        # What arrives by the token still has its part along the ones.
        return y_dot, y_dot * centered, None, None


class _LogSoftmax(Exact):
    @staticmethod
    def forward(ctx, x, dim):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        ctx.dim = dim
        y, with_x = torch.log_softmax(x, dim), token(x.shape, x)
        ctx.save_for_backward(y.exp(), with_x)
        return y, with_x

    @staticmethod
    def backward(ctx, y_bar, token_bar):  # pyright: ignore[reportIncompatibleMethodOverride]
        p, with_x = ctx.saved_tensors
        if y_bar is None:
            if token_bar is not None:
                refuse_third()
            return token_bar, None
        if token_bar is None and torch.is_grad_enabled():
            return _LogSoftmaxBackward.apply(y_bar, with_x, p, ctx.dim), None
        if token_bar is not None:
            refuse_third()
        y_sum = y_bar.sum(ctx.dim, keepdim=True)
        total = y_bar if token_bar is None else token_bar.add_(y_bar)
        return torch.addcmul(total, p, y_sum, value=-1), None


class _LogSoftmaxBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y_bar, with_x, p, dim):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        ctx.dim = dim
        y_sum = y_bar.sum(dim, keepdim=True)
        ctx.save_for_backward(p, y_sum)
        return torch.addcmul(y_bar, p, y_sum, value=-1)

    @staticmethod
    def backward(ctx, x_dot):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_third()
        if x_dot is None:
            return None, None, None, None
        p, y_sum = ctx.saved_tensors
        p_dot = p * x_dot
        along = p_dot.sum(ctx.dim, keepdim=True)
        y_dot = x_dot - along if ctx.needs_input_grad[0] else None
        return y_dot, p_dot.addcmul_(p, along, value=-1).mul_(-y_sum), None, None


class _CrossEntropy(Exact):
    @staticmethod
    def forward(ctx, x, targets, ignored):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        losses = F.cross_entropy(x, targets, ignore_index=ignored, reduction="none")
        with_x = token(x.shape, x)
        counted = targets != ignored
        at = targets.where(counted, 0)[:, None]
        ctx.save_for_backward(torch.softmax(x, 1), at, counted, with_x)
        return losses, with_x

    @staticmethod
    def backward(ctx, y_bar, token_bar):  # pyright: ignore[reportIncompatibleMethodOverride]
        p, at, counted, with_x = ctx.saved_tensors
        if token_bar is not None:
            refuse_third()
            return (
                token_bar if y_bar is None else token_bar.add_(_pulled(y_bar, p, at, counted)),
                None,
                None,
            )
        if y_bar is None:
            return None, None, None
        if not torch.is_grad_enabled():
            return _pulled(y_bar, p, at, counted), None, None
        return _CrossEntropyBackward.apply(y_bar, with_x, p, at, counted), None, None


def _pulled(y_bar: Tensor, p: Tensor, at: Tensor, counted: Tensor) -> Tensor:
    weight = y_bar.where(counted, 0)[:, None]
    pulled = p * weight
    return pulled.scatter_(1, at, pulled.gather(1, at) - weight)


class _CrossEntropyBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y_bar, with_x, p, at, counted):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y_bar.where(counted, 0)[:, None], p, at, counted)
        return _pulled(y_bar, p, at, counted)

    @staticmethod
    def backward(ctx, x_dot):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_third()
        if x_dot is None:
            return None, None, None, None, None
        weight, p, at, counted = ctx.saved_tensors
        p_dot = p * x_dot
        along = p_dot.sum(1, keepdim=True)
        y_dot = None
        if ctx.needs_input_grad[0]:
            y_dot = (along - x_dot.gather(1, at))[:, 0].where(counted, 0)
        return y_dot, p_dot.addcmul_(p, along, value=-1).mul_(weight), None, None, None
