"""y = f(x) entry by entry, of which f, f' and f'' are known where the graph is built."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from geomfast.estimators.curvature.twice.pairs import Exact, refuse_third, token

#: A tensor of the entries' shape, or one number for all of them.
Entries = Tensor | float


@dataclass
class Jet:
    """A tensor that is a function f of another one, entry by entry.

    Attributes:
        root: x, requires gradients.
        slope: f'(x).
        curve: f''(x).
        square: whether f(x) is the square of x, and nothing else.
    """

    root: Tensor
    slope: Entries
    curve: Entries
    square: bool = False

    @property
    def linear(self) -> bool:
        return isinstance(self.slope, float) and isinstance(self.curve, float)

    def finite(self) -> bool:
        """Whether no derivative has overflown, which autograd might do without."""
        return all(
            bool(torch.isfinite(one).all()) if isinstance(one, Tensor) else math.isfinite(one)
            for one in (self.slope, self.curve)
        )


def applied(jet: Jet, value: Tensor) -> Tensor:
    """The value f(x), which has no graph, with one that leads to x."""
    if not isinstance(jet.slope, Tensor):
        raise ValueError("a linear function")
    return _Elementwise.apply(jet.root, (value, jet.slope, jet.curve))[0]


class _Elementwise(Exact):
    @staticmethod
    def forward(ctx, x, made):  # pyright: ignore[reportIncompatibleMethodOverride]
        # Not an argument of its own: autograd takes an argument that is returned for its view.
        value, slope, curve = made
        ctx.set_materialize_grads(False)
        with_x = token(x.shape, x)
        ctx.number = None if isinstance(curve, Tensor) else curve
        ctx.save_for_backward(with_x, slope, curve if isinstance(curve, Tensor) else None)
        return value, with_x

    @staticmethod
    def backward(ctx, y_bar, token_bar):  # pyright: ignore[reportIncompatibleMethodOverride]
        with_x, slope, curve = ctx.saved_tensors
        if token_bar is not None:
            refuse_third()
            return token_bar if y_bar is None else token_bar.addcmul_(slope, y_bar), None
        if y_bar is None:
            return None, None
        if not torch.is_grad_enabled():
            return y_bar * slope, None
        curve = ctx.number if curve is None else curve
        return _ElementwiseBackward.apply(y_bar, with_x, slope, curve), None


class _ElementwiseBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y_bar, with_x, slope, curve):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(slope, y_bar * curve)
        return y_bar * slope

    @staticmethod
    def backward(ctx, x_dot):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_third()
        if x_dot is None:
            return None, None, None, None
        slope, curve = ctx.saved_tensors
        y_dot = x_dot * slope if ctx.needs_input_grad[0] else None
        return y_dot, x_dot * curve, None, None


def gated(a: Tensor, b: Tensor) -> Tensor:
    """a b entry by entry, of one shape, both of which require gradients."""
    return _Gated.apply(a, b)[0]


class _Gated(Exact):
    @staticmethod
    def forward(ctx, a, b):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        tokens = token(a.shape, a), token(b.shape, b)
        ctx.save_for_backward(a, b, *tokens)
        return a * b, *tokens

    @staticmethod
    def backward(ctx, y_bar, to_a, to_b):  # pyright: ignore[reportIncompatibleMethodOverride]
        a, b, *tokens = ctx.saved_tensors
        a, b = a.detach(), b.detach()
        if torch.is_grad_enabled():
            if to_a is not None or to_b is not None:
                refuse_third()
            return (None, None) if y_bar is None else _GatedBackward.apply(y_bar, *tokens, a, b)
        if y_bar is None:
            return to_a, to_b
        a_bar = y_bar * b if to_a is None else to_a.addcmul_(y_bar, b)
        return a_bar, y_bar * a if to_b is None else to_b.addcmul_(y_bar, a)


class _GatedBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y_bar, with_a, with_b, a, b):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y_bar, a, b)
        return y_bar * b, y_bar * a

    @staticmethod
    def backward(ctx, a_dot, b_dot):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_third()
        y_bar, a, b = ctx.saved_tensors
        to_a = None if b_dot is None else y_bar * b_dot
        to_b = None if a_dot is None else y_bar * a_dot
        y_dot = None
        if ctx.needs_input_grad[0]:
            y_dot = None if a_dot is None else a_dot * b
            if b_dot is not None:
                y_dot = a * b_dot if y_dot is None else y_dot.addcmul_(a, b_dot)
        return y_dot, to_a, to_b, None, None


def chained(inner: Jet, slope: Entries, curve: Entries) -> Jet:
    """Of g(f(x)): inner is that of f, and the others are g' and g'' at f(x)."""
    first = inner.slope
    bent = _plus(_times(curve, _times(first, first)), _times(slope, inner.curve))
    return Jet(inner.root, _times(slope, first), bent)


def product(a: Jet, b: Jet, u: Tensor, v: Tensor) -> Jet:
    """Of u v, where a is that of u and b that of v."""
    slope = _plus(_times(a.slope, v), _times(b.slope, u))
    curve = _plus(_times(a.curve, v), _times(b.curve, u))
    return Jet(a.root, slope, _plus(curve, _times(2.0, _times(a.slope, b.slope))))


def total(a: Jet, b: Jet, sign: float) -> Jet:
    slope, curve = _times(sign, b.slope), _times(sign, b.curve)
    return Jet(a.root, _plus(a.slope, slope), _plus(a.curve, curve))


def _times(a: Entries, b: Entries) -> Entries:
    if isinstance(a, float):
        a, b = b, a
    if isinstance(b, float) and b in (0.0, 1.0):
        return 0.0 if b == 0.0 else a
    return a * b


def _plus(a: Entries, b: Entries) -> Entries:
    if isinstance(a, float) and a == 0.0:
        return b
    return a if isinstance(b, float) and b == 0.0 else a + b


#: x and f(x) -> f'(x) and f''(x)
Derivatives = Callable[[Tensor, Tensor], tuple[Entries, Entries]]


def of_tanh(x: Tensor, y: Tensor) -> tuple[Entries, Entries]:
    slope = 1 - y * y
    return slope, -2 * y * slope


def of_sigmoid(x: Tensor, y: Tensor) -> tuple[Entries, Entries]:
    slope = y * (1 - y)
    return slope, slope * (1 - 2 * y)


def of_exp(x: Tensor, y: Tensor) -> tuple[Entries, Entries]:
    kept = y.clone()  # y itself may be written to
    return kept, kept


def of_erf(x: Tensor, y: Tensor) -> tuple[Entries, Entries]:
    slope = (-x * x).exp() * (2 / math.sqrt(math.pi))
    return slope, -2 * x * slope


def of_sin(x: Tensor, y: Tensor) -> tuple[Entries, Entries]:
    return x.cos(), -y


def of_cos(x: Tensor, y: Tensor) -> tuple[Entries, Entries]:
    return -x.sin(), -y


def of_silu(x: Tensor, y: Tensor) -> tuple[Entries, Entries]:
    s = x.sigmoid()
    return s * (1 + x * (1 - s)), s * (1 - s) * (2 + x * (1 - 2 * s))


def of_gelu(x: Tensor, y: Tensor) -> tuple[Entries, Entries]:
    density = (-0.5 * x * x).exp() * (1 / math.sqrt(2 * math.pi))
    below = 0.5 * torch.erfc(x * (-1 / math.sqrt(2)))
    return below + x * density, density * (2 - x * x)


def of_gelu_tanh(x: Tensor, y: Tensor) -> tuple[Entries, Entries]:
    k, c = math.sqrt(2 / math.pi), 0.044715
    t = (k * (x + c * x * x * x)).tanh()
    inner = k * (1 + 3 * c * x * x)
    rise = 1 - t * t
    slope = 0.5 * (1 + t) + 0.5 * x * rise * inner
    return slope, rise * (inner + x * (3 * k * c * x - t * inner * inner))


def of_power(exponent: int) -> Derivatives:
    """Of x to a whole number of 2 or more."""

    def derivatives(x: Tensor, y: Tensor) -> tuple[Entries, Entries]:
        if exponent == 2:
            return 2 * x, 2.0
        scale = float(exponent * (exponent - 1))
        return exponent * x.pow(exponent - 1), scale * x.pow(exponent - 2)

    return derivatives
