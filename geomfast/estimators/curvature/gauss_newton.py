"""Products of the generalised Gauss-Newton matrix with vectors.

G = E J^T H_z J: J the derivatives of the model's output z by the parameters, H_z the Hessian of the
loss by z (Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient
descent"). Positive semi-definite where the loss is convex in z.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from geomfast.estimators.curvature.products import (
    HessianProducts,
    require_second_derivative,
    second_derivatives,
)
from geomfast.estimators.graph import custom_functions, nodes


class GaussNewtonProducts(HessianProducts):
    """As `HessianProducts`, without the curvature of the model itself.

    Raises:
        ValueError: also where the loss does not call the model once, or takes parameters that its
            output does not contain.
    """

    def losses_of(self, i: int, *, differentiable: bool = True) -> Tensor:
        self._outputs: list[Tensor] = []  # of this call of the loss
        return super().losses_of(i, differentiable=differentiable)

    def _caught(self, output: Any) -> None:
        z = _output(output)
        if self.making is not None:
            self.making.chains.forget(z)  # what is made of it is made of nothing before it
        self._outputs.append(z)

    def _prepared(self, i: int, *, kept: bool = True) -> Any:
        hook = self.model.register_forward_hook(lambda *call: self._caught(call[-1]))
        try:
            loss = self.loss_of(i, kept=kept)
        finally:
            hook.remove()
        if len(self._outputs) != 1:
            raise ValueError(
                "gauss-newton needs a loss that calls the model once, not "
                f"{len(self._outputs)} times"
            )
        (z,) = self._outputs
        self._outputs = []
        ours = {id(p): name for name, p in self.parameters.items()}
        for node in nodes(loss, beyond=z):
            name = ours.get(id(getattr(node, "variable", None)))
            if name is not None:
                raise ValueError(f"gauss-newton: the loss takes parameter {name} beside the output")
        require_second_derivative(loss)
        self.custom.update(custom_functions(loss))
        parameters = list(self.parameters.values())
        with torch.enable_grad(), second_derivatives():
            (by_output,) = torch.autograd.grad(loss, z, create_graph=True, retain_graph=True)
            # The gradient for any u at the output is linear in u: its derivative by u is J.
            u = torch.zeros_like(z, requires_grad=True)
            linear = torch.autograd.grad(z, parameters, u, create_graph=True, allow_unused=True)
        return z, by_output, u, dict(zip(self.parameters, linear, strict=True))

    def _used(self, prepared: Any) -> set[str]:
        *_, linear = prepared
        return super()._used(linear)

    def _gradient(self, prepared: Any) -> list[Tensor | None]:
        z, by_output, *_ = prepared
        found = torch.autograd.grad(
            z,
            list(self.parameters.values()),
            by_output.detach(),
            retain_graph=True,
            allow_unused=True,
        )
        return list(found)

    def _product(self, prepared: Any, names: list[str], v: Tensor) -> Tensor:
        z, by_output, u, linear = prepared
        if not by_output.requires_grad:  # a loss linear in the output
            return torch.zeros_like(v)
        parameters = [self.parameters[name] for name in names]
        used = [
            (linear[name], part)
            for name, part in zip(names, self._shaped(parameters, v), strict=True)
            if linear[name] is not None
        ]
        if not used:
            return torch.zeros_like(v)
        outputs, shaped = zip(*used, strict=True)
        with second_derivatives():
            (jv,) = torch.autograd.grad(outputs, u, shaped, retain_graph=True)
            (hjv,) = torch.autograd.grad(by_output, z, jv, retain_graph=True)
            products = torch.autograd.grad(z, parameters, hjv, retain_graph=True, allow_unused=True)
        return self._flat(parameters, products, v)


def _output(out: Any) -> Tensor:
    """The tensor of a model's output that losses are made of."""
    logits = getattr(out, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    found = [x for x in tree_leaves(out) if isinstance(x, Tensor) and x.requires_grad]
    if len(found) != 1:
        raise ValueError(f"gauss-newton needs one differentiable output, not {len(found)}")
    return found[0]
