"""Functions that models write in several calls: of one tensor's entries, or of its rows' squares.

An activation such as x * 0.5 * (1 + tanh(x + c * x**3)) is followed call by call, with the first
two derivatives by x of what each returns, and every result gets a graph that leads to x at once.
So is the norm x * rsqrt(mean(x**2) + eps).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from geomfast.estimators.curvature.twice import elementwise, norms
from geomfast.estimators.curvature.twice.calls import plain
from geomfast.estimators.curvature.twice.elementwise import Derivatives, Jet
from geomfast.estimators.curvature.twice.norms import Normed


@dataclass
class MeanSquare:
    """(..., 1), the mean of root's squares along its last dimension, plus a constant.

    Attributes:
        root: x.
        inverse_root: whether it is 1 over the square root of that.
    """

    root: Tensor
    inverse_root: bool = False


@dataclass
class NormedRows:
    """Root over the root of its mean square."""

    root: Tensor
    made: Normed


Fact = Jet | MeanSquare | NormedRows


class Chains:
    """What is known of tensors that were not written to, nor what they were made of."""

    def __init__(self) -> None:
        self._facts = WeakTensorKeyDictionary()

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The function's result, with a graph made here; None where torch has to make it."""
        kind, of = CHAINED[func]
        handler = getattr(self, f"_{kind}")
        return handler(func, of, args, kwargs)

    def forget(self, x: Tensor) -> None:
        """Makes x what further functions are functions of."""
        self._facts.pop(x, None)

    def known(self, x: Tensor) -> Fact | None:
        found = self._facts.get(x)
        if found is None:
            return None
        fact, versions = found
        return fact if versions == (x._version, fact.root._version) else None

    def note(self, x: Tensor, fact: Fact) -> Tensor:
        self._facts[x] = fact, (x._version, fact.root._version)
        return x

    def _jet(self, x: Tensor) -> Jet:
        known = self.known(x)
        return known if isinstance(known, Jet) else Jet(x, 1.0, 0.0)

    def _unary(self, func: Any, of: Any, args: Any, kwargs: Any) -> Tensor | None:
        if len(args) != 1 or not self._follows(args[0]):
            return None
        derivatives: Derivatives | None = of
        if of in _CHOSEN:
            derivatives = of(**kwargs)
        elif kwargs:
            derivatives = None
        if derivatives is None:
            return None
        return self._composed(args[0], derivatives, lambda x: func(x, **kwargs))

    def _square(self, func: Any, of: Any, args: Any, kwargs: Any) -> Tensor | None:
        if kwargs or len(args) != 1 or not self._follows(args[0]):
            return None
        return self._composed(args[0], elementwise.of_power(2), func, square=True)

    def _composed(
        self,
        x: Tensor,
        derivatives: Derivatives,
        function: Callable[[Tensor], Tensor],
        square: bool = False,
    ) -> Tensor | None:
        with torch.no_grad():
            inner = x.detach()
            value = function(inner)
            jet = elementwise.chained(self._jet(x), *derivatives(inner, value))
        jet.square = square and jet.root is x
        return self._applied(jet, value)

    def _applied(self, jet: Jet, value: Tensor) -> Tensor | None:
        if not jet.finite():
            return None
        return self.note(elementwise.applied(jet, value), jet)

    def _power(self, func: Any, of: Any, args: Any, kwargs: Any) -> Tensor | None:
        if kwargs or len(args) != 2 or not self._follows(args[0]):
            return None
        x, exponent = args
        known = self.known(x)
        if isinstance(known, MeanSquare) and exponent == -0.5 and not known.inverse_root:
            return self.note(func(x, exponent), replace(known, inverse_root=True))
        if not _number(exponent) or exponent != int(exponent) or exponent < 2:
            return None
        derivatives = elementwise.of_power(int(exponent))
        return self._composed(x, derivatives, lambda x: func(x, exponent), exponent == 2)

    def _rsqrt(self, func: Any, of: Any, args: Any, kwargs: Any) -> Tensor | None:
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor):
            return None
        known = self.known(args[0])
        if not isinstance(known, MeanSquare) or known.inverse_root:
            return None
        return self.note(func(args[0]), replace(known, inverse_root=True))

    def _mean(self, func: Any, of: Any, args: Any, kwargs: Any) -> Tensor | None:
        if not args or not isinstance(args[0], Tensor):
            return None
        x, *dims = args
        given = dict(zip(("dim", "keepdim"), dims, strict=False)) | kwargs
        dim = given.get("dim")
        dim = dim[0] if isinstance(dim, tuple | list) and len(dim) == 1 else dim
        last = type(dim) is int and dim in (-1, x.ndim - 1)
        if not last or given.get("keepdim") is not True or given.keys() != {"dim", "keepdim"}:
            return None
        known = self.known(x)
        if not isinstance(known, Jet) or not known.square:
            return None
        return self.note(func(*args, **kwargs), MeanSquare(known.root))

    def _sum(self, func: Any, sign: Any, args: Any, kwargs: Any) -> Tensor | None:
        if kwargs or len(args) != 2:
            return None
        a, b = args
        if sign < 0 and func in _REVERSED:
            a, b = b, a
        if _number(a) and self._follows(b):
            return self._shifted(func, args, b, sign)
        if _number(b) and self._follows(a):
            known = self.known(a)
            if isinstance(known, MeanSquare) and not known.inverse_root:
                return self.note(func(*args), known)
            return self._shifted(func, args, a, 1.0)
        both = self._of_one_root(a, b)
        if both is None:
            return None
        with torch.no_grad():
            jet = elementwise.total(*both, sign)
        return self._made(func, args, jet)

    def _shifted(self, func: Any, args: Any, x: Tensor, factor: float) -> Tensor | None:
        """factor x + a number."""
        return self._made(func, args, _scaled(self._jet(x), factor))

    def _made(self, func: Any, args: Any, jet: Jet) -> Tensor | None:
        if jet.linear:
            return self.note(func(*args), jet)
        if not isinstance(jet.slope, Tensor):
            return None
        with torch.no_grad():
            value = func(*(x.detach() if isinstance(x, Tensor) else x for x in args))
        return self._applied(jet, value)

    def _product(self, func: Any, of: Any, args: Any, kwargs: Any) -> Tensor | None:
        if kwargs or len(args) != 2:
            return None
        for a, b in (args, args[::-1]):
            if _number(a) and self._follows(b):
                return self._shifted(func, args, b, float(a))
        normed = self._normed(func, args)
        if normed is not None:
            return normed
        a, b = args
        both = self._of_one_root(a, b)
        if both is None:
            alike = self._follows(a) and self._follows(b) and plain(a, b) and a.shape == b.shape
            return elementwise.gated(a, b) if alike else None
        with torch.no_grad():
            jet = elementwise.product(*both, a.detach(), b.detach())
        jet.square = a is b and a is jet.root
        return self._made(func, args, jet)

    def _quotient(self, func: Any, of: Any, args: Any, kwargs: Any) -> Tensor | None:
        if kwargs or len(args) != 2 or not _number(args[1]) or args[1] == 0:
            return None
        return self._shifted(func, args, args[0], 1 / args[1]) if self._follows(args[0]) else None

    def _normed(self, func: Any, args: Any) -> Tensor | None:
        """A row times 1 / the root of its mean square, or that times a weight."""
        for a, b in (args, args[::-1]):
            if not isinstance(a, Tensor) or not isinstance(b, Tensor):
                return None
            known = self.known(b)
            if isinstance(known, MeanSquare) and known.inverse_root and a is known.root:
                with torch.no_grad():
                    y = func(*(x.detach() for x in args))
                    width = a.shape[-1]
                    made = Normed(y.reshape(-1, width).clone(), b.reshape(-1, 1).clone(), False)
                return self.note(_norm(a, None, made, y), NormedRows(a, made))
            if isinstance(known, NormedRows) and plain(a, b) and a.shape == b.shape[-1:]:
                with torch.no_grad():
                    y = func(*(x.detach() for x in args))
                return _norm(known.root, a, known.made, y)
        return None

    def _follows(self, x: Any) -> bool:
        return isinstance(x, Tensor) and plain(x) and x.requires_grad

    def _of_one_root(self, a: Any, b: Any) -> tuple[Jet, Jet] | None:
        if not self._follows(a) or not self._follows(b) or a.shape != b.shape:
            return None
        if isinstance(known := self.known(a), Jet) and b is known.root:
            return known, Jet(b, 1.0, 0.0)
        if isinstance(known := self.known(b), Jet) and a is known.root:
            return Jet(a, 1.0, 0.0), known
        of_a, of_b = self._jet(a), self._jet(b)
        return (of_a, of_b) if of_a.root is of_b.root else None


def _norm(x: Tensor, weight: Tensor | None, made: Normed, y: Tensor) -> Tensor:
    return norms.norm(
        x.reshape(made.rows.shape), weight, None, made, y.reshape(made.rows.shape)
    ).view(x.shape)


def _scaled(jet: Jet, factor: float) -> Jet:
    with torch.no_grad():
        return elementwise.chained(jet, factor, 0.0)


def _number(x: Any) -> bool:
    return type(x) in (int, float) and math.isfinite(x)


def _of_gelu(approximate: Any = "none") -> Derivatives | None:
    return {"none": elementwise.of_gelu, "tanh": elementwise.of_gelu_tanh}.get(approximate)


def _of_silu(inplace: Any = False) -> Derivatives | None:
    return None if inplace else elementwise.of_silu


_CHOSEN = (_of_gelu, _of_silu)
_REVERSED = (Tensor.__rsub__,)

#: torch's function -> which method of `Chains` follows it, and what that is told.
CHAINED: dict[Any, tuple[str, Any]] = {
    F.gelu: ("unary", _of_gelu),
    F.silu: ("unary", _of_silu),
    torch.rsqrt: ("rsqrt", None),
    Tensor.rsqrt: ("rsqrt", None),
    Tensor.mean: ("mean", None),
    torch.mean: ("mean", None),
    torch.square: ("square", None),
    Tensor.square: ("square", None),
    torch.pow: ("power", None),
    Tensor.pow: ("power", None),
    Tensor.__pow__: ("power", None),
}
for _name in ("tanh", "sigmoid", "exp", "erf", "sin", "cos"):
    for _owner in (torch, Tensor):
        CHAINED[getattr(_owner, _name)] = ("unary", getattr(elementwise, f"of_{_name}"))
CHAINED[F.tanh] = CHAINED[torch.tanh]
CHAINED[F.sigmoid] = CHAINED[torch.sigmoid]
for _function in (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__):
    CHAINED[_function] = ("sum", 1.0)
for _function in (torch.sub, Tensor.sub, Tensor.__sub__, Tensor.__rsub__):
    CHAINED[_function] = ("sum", -1.0)
for _function in (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__):
    CHAINED[_function] = ("product", None)
for _function in (torch.div, Tensor.div, Tensor.__truediv__):
    CHAINED[_function] = ("quotient", None)
