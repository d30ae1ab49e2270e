"""Whether second derivatives are those of the gradient: compared with its differences.

Autograd differentiates what a function's backward computes. Where that was written by hand, for a
custom autograd function say, nothing makes sure that it can be differentiated again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.batches import Batches, mapped, some_of
from geomfast.estimators.calls import copied, measurable
from geomfast.estimators.checks import FEW, LossFunction
from geomfast.estimators.curvature.lanczos import random_vector
from geomfast.estimators.curvature.products import HessianProducts

# Of a product of the Hessian, and of the differences that it is compared with.
_SAME = {torch.float64: 1e-4, torch.float32: 5e-2}
# Rounding of a gradient in units of eps and of the gradient of all parameters: that of a bias in
# front of a norm, say, is 0, as the difference of terms as large as those of others.
_ROUNDING = 1e2
# Steps along a direction of the length of the parameters: rounding and curvature err alike.
_STEP = {torch.float64: 1e-6, torch.float32: 1e-3}


def wrong_second_derivatives(
    model: nn.Module, loss_fn: LossFunction, batch: Any, params: list[str]
) -> list[str]:
    """Modules whose part of a product with the Hessian is not what the gradient's change says.

    Of a few samples, along one random direction, in float64 where the model can be computed so.

    Args:
        model, loss_fn, batch: as everywhere in geomfast.
        params: names of the parameters.

    Returns:
        Names and kinds, as in "encoder.norm (WeightNorm)"; none where all agree.
    """
    _, few = some_of(batch, FEW)
    try:
        found = _both(copied(model).double(), loss_fn, mapped(_doubled, few), params)
    except (RuntimeError, TypeError):  # a function of float32 only
        found = _both(copied(model), loss_fn, few, params)
    product, differences, rounding = found
    tolerance = _SAME[next(iter(product.values())).dtype]
    total = torch.stack([x.norm() for x in differences.values()]).norm()
    wrong = {}
    for name, expected in differences.items():
        error = (product[name] - expected).norm()
        least = torch.maximum(expected.norm(), 0.01 * total)
        if error > tolerance * least + rounding:
            owner = name.rpartition(".")[0]
            module = model.get_submodule(owner)
            wrong[f"{owner or 'the model'} ({type(module).__name__})"] = True
    return list(wrong)


def _doubled(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _within_reach(model: nn.Module, sizes: dict[str, int], v: Tensor) -> Tensor:
    """v without the rows for padding, whose gradient is 0 by definition whatever they do."""
    parts = dict(zip(sizes, v.clone().split(list(sizes.values())), strict=True))
    for path, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        part = parts.get(f"{path}.weight" if path else "weight")
        if isinstance(padding, int) and part is not None:
            part.view(module.get_parameter("weight").shape)[padding] = 0.0
    return torch.cat(list(parts.values()))


def _both(
    model: nn.Module, loss_fn: LossFunction, batch: Any, params: list[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """H v and the gradient's central difference along v, by parameter; and what rounding adds."""
    with measurable(model, loss_fn, Batches([batch])) as (model, losses, batches):
        products = HessianProducts(model, losses, batches, params)
        parameters = [model.get_parameter(name) for name in products.parameters]
        length = torch.stack([p.detach().norm() for p in parameters]).norm().clamp_min(1.0)
        v = random_vector(products.like, products.dimension, 0)
        v = _within_reach(model, products.sizes, v)
        v = v / v.norm()
        sizes = list(products.sizes.values())
        product = products(v)
        step = _STEP[v.dtype] * length
        gradients = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for parameter, part in zip(parameters, v.split(sizes), strict=True):
                    parameter += sign * step * part.view_as(parameter)
            gradients.append(HessianProducts(model, losses, batches, params).gradient())
            with torch.no_grad():
                for parameter, part in zip(parameters, v.split(sizes), strict=True):
                    parameter -= sign * step * part.view_as(parameter)
        differences = (gradients[0] - gradients[1]) / (2 * step)
        every = [p for p in model.parameters() if p.requires_grad]
        terms = torch.autograd.grad(products.loss_of(0), every, allow_unused=True)
        largest = max(float(x.to_dense().norm()) for x in terms if x is not None)
        rounding = _ROUNDING * torch.finfo(v.dtype).eps * largest / float(step)
        product, differences = (
            dict(zip(products.sizes, x.split(sizes), strict=True)) for x in (product, differences)
        )
        return product, differences, rounding
