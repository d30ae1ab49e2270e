"""Linear layers of a GPT, with the gain and offset of the LayerNorm before them folded in.

y = (gain * x + offset) W^T + b is x w + c with w = diag(gain) W^T and c = b + W offset. Gain and
offset are then met once for every weight, not once for every token; the chain rule takes the
derivatives by w and c to those by the four parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Parameters by name, or tangents of parameters with k probes in front.
Values = dict[str, Tensor]


@dataclass
class Affine:
    """w (i, o) and c (o,); or their gradients; or the tangents of either, (k, i, o) and (k, o)."""

    w: Tensor
    c: Tensor

    def columns(self, start: int, stop: int) -> Affine:
        """A view of the outputs from start to stop."""
        return Affine(self.w[..., start:stop], self.c[..., start:stop])

    def zeros(self, *probes: int) -> Affine:
        """To sum gradients in, or the tangents of gradients by k probes."""
        w, c = self.w, self.c
        return Affine(w.new_zeros(*probes, *w.shape), c.new_zeros(*probes, *c.shape))


@dataclass(frozen=True)
class Linear:
    """Names of the parameters of a linear layer.

    Attributes:
        weight: (o, i).
        bias: (o,); empty if there is none.
        norm: of the LayerNorm before it; empty if there is none.
        scale: of its first outputs, the third that are queries; 1 for none.
    """

    weight: str
    bias: str = ""
    norm: str = ""
    scale: float = 1.0

    def folded(self, at: Values) -> Affine:
        """The layer at the parameters' values."""
        weight = at[self.weight].mT
        c = at[self.bias] if self.bias else weight.new_zeros(weight.shape[1])
        if not self.norm:
            return Affine(weight.contiguous(), c.clone())
        gain, offset = at[f"{self.norm}.weight"], at[f"{self.norm}.bias"]
        return self._scaled(Affine(weight * gain[:, None], c + offset @ weight))

    def tangent(self, at: Values, dot: Values) -> Affine:
        """Tangent of `folded` for tangents of the parameters, k probes in front of each."""
        weight, weight_dot = at[self.weight].mT, dot[self.weight].mT
        c = dot[self.bias] if self.bias else weight.new_zeros(len(weight_dot), weight.shape[1])
        if not self.norm:
            return Affine(weight_dot.contiguous(), c)
        gain, offset = at[f"{self.norm}.weight"], at[f"{self.norm}.bias"]
        gain_dot, offset_dot = dot[f"{self.norm}.weight"], dot[f"{self.norm}.bias"]
        w = (weight_dot * gain[:, None]).addcmul_(weight, gain_dot[..., None])
        c = c + offset @ weight_dot + offset_dot @ weight
        return self._scaled(Affine(w, c))

    def add_gradient_tangent(
        self, at: Values, dot: Values, bar: Affine, bar_dot: Affine, out: Values
    ) -> None:
        """Adds the tangents of the parameters' gradients to out.

        Args:
            at, dot: the parameters and their tangents.
            bar: gradient by the folded layer.
            bar_dot: its tangent, which is overwritten.
            out: (k, *shape) by name.
        """
        bar_dot = self._scaled(bar_dot)
        if self.scale != 1.0:
            bar = self._scaled(Affine(bar.w.clone(), bar.c.clone()))
        if self.bias:
            out[self.bias] += bar_dot.c
        if not self.norm:
            out[self.weight] += bar_dot.w.mT
            return
        weight, weight_dot = at[self.weight].mT, dot[self.weight].mT
        gain, offset = at[f"{self.norm}.weight"], at[f"{self.norm}.bias"]
        gain_dot, offset_dot = dot[f"{self.norm}.weight"], dot[f"{self.norm}.bias"]
        gained = (weight * bar_dot.w).addcmul_(weight_dot, bar.w)
        out[f"{self.norm}.weight"] += gained.sum(-1)
        shifted = bar_dot.c @ weight.mT
        shifted += (weight_dot @ bar.c[:, None])[..., 0]
        out[f"{self.norm}.bias"] += shifted
        by_weight = bar_dot.w.mul_(gain[:, None]).addcmul_(bar.w, gain_dot[..., None])
        by_weight.addcmul_(offset[:, None], bar_dot.c[:, None, :])
        by_weight.addcmul_(offset_dot[..., None], bar.c)
        out[self.weight] += by_weight.mT

    def _scaled(self, layer: Affine) -> Affine:
        if self.scale != 1.0:
            queries = layer.columns(0, layer.c.shape[-1] // 3)
            queries.w.mul_(self.scale)
            queries.c.mul_(self.scale)
        return layer


def apply(layer: Affine, x: Tensor) -> Tensor:
    """x w + c: (M, i) -> (M, o)."""
    return torch.addmm(layer.c, x, layer.w)


def add_weight_gradient(out: Affine, x: Tensor, y_bar: Tensor) -> None:
    """Adds the gradients by w and c to out: x (M, i), y_bar (M, o)."""
    out.w.addmm_(x.mT, y_bar)
    out.c.add_(y_bar.sum(0))


def forward_tangent(layer: Affine, dot: Affine, x: Tensor, x_dot: Tensor) -> Tensor:
    """Tangent (k, M, o) of x w + c: x (M, i), x_dot (k, M, i)."""
    y_dot = torch.baddbmm(dot.c[:, None], x.expand(len(x_dot), -1, -1), dot.w)
    y_dot.flatten(0, 1).addmm_(x_dot.flatten(0, 1), layer.w)
    return y_dot


def adjoint_tangent(layer: Affine, dot: Affine, y_bar: Tensor, y_bar_dot: Tensor) -> Tensor:
    """Tangent (k, M, i) of y_bar w^T: y_bar (M, o), y_bar_dot (k, M, o)."""
    x_bar_dot = torch.bmm(y_bar.expand(len(y_bar_dot), -1, -1), dot.w.mT)
    x_bar_dot.flatten(0, 1).addmm_(y_bar_dot.flatten(0, 1), layer.w.mT)
    return x_bar_dot


def add_weight_tangent(
    out: Affine, x: Tensor, x_dot: Tensor, y_bar: Tensor, y_bar_dot: Tensor
) -> None:
    """Adds the tangents of the gradients x^T y_bar by w and of the sum of y_bar by c to out."""
    probes = len(x_dot)
    out.w.baddbmm_(x_dot.mT, y_bar.expand(probes, -1, -1))
    out.w.baddbmm_(x.mT.expand(probes, -1, -1), y_bar_dot)
    out.c.add_(y_bar_dot.sum(1))
