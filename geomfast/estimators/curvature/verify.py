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
# Also with shorter ones. A kink, such as that of a ReLU, which a step crosses is in the differences
# and not in the second derivative, and so is the rounding of a loss that is next to zero.
_SHARES = {torch.float64: (1.0, 0.1, 0.01), torch.float32: (1.0, 0.5)}
# So many times as much as steps differ among each other.
_SURE = 2.0


def wrong_second_derivatives(
    model: nn.Module, loss_fn: LossFunction, batch: Any, params: list[str]
) -> list[str]:
    """Modules whose part of a product with the Hessian is not what the gradient's change says.

    Of a few samples, along one random direction, in float64 where the model can be computed so,
    by differences of several steps, which have to agree with each other.

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
    total = torch.stack([x.norm() for x in differences[0].values()]).norm()
    wrong = {}
    for name, part in product.items():
        expected = [of_step[name] for of_step in differences]
        error = min((part - one).norm() for one in expected)
        least = torch.maximum(expected[0].norm(), 0.01 * total)
        # Kinks and rounding make differences of other steps others; a wrong derivative does not.
        unsure = max((one - expected[0]).norm() for one in expected)
        if error > tolerance * least + rounding + _SURE * unsure:
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
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], float]:
    """H v and the gradient's central differences along v, by parameter, of every step, the longest
    first; and what rounding adds to the latter."""
    with measurable(model, loss_fn, Batches([batch])) as (model, losses, batches):
        products = HessianProducts(model, losses, batches, params)
        parameters = [model.get_parameter(name) for name in products.parameters]
        length = torch.stack([p.detach().norm() for p in parameters]).norm().clamp_min(1.0)
        v = random_vector(products.like, products.dimension, 0)
        v = _within_reach(model, products.sizes, v)
        v = v / v.norm()
        sizes = list(products.sizes.values())
        product = products(v)
        every = [p for p in model.parameters() if p.requires_grad]
        terms = torch.autograd.grad(products.loss_of(0), every, allow_unused=True)
        largest = max(float(x.to_dense().norm()) for x in terms if x is not None)
        step = _STEP[v.dtype] * length
        rounding = _ROUNDING * torch.finfo(v.dtype).eps * largest / float(step)
        differences = []
        for share in _SHARES[v.dtype]:
            gradients = []
            for sign in (1.0, -1.0):
                moved = sign * share * step * v
                with torch.no_grad():
                    for parameter, part in zip(parameters, moved.split(sizes), strict=True):
                        parameter += part.view_as(parameter)
                gradients.append(HessianProducts(model, losses, batches, params).gradient())
                with torch.no_grad():
                    for parameter, part in zip(parameters, moved.split(sizes), strict=True):
                        parameter -= part.view_as(parameter)
            differences.append((gradients[0] - gradients[1]) / (2 * share * step))

        def by_name(x: Tensor) -> dict[str, Tensor]:
            return dict(zip(products.sizes, x.split(sizes), strict=True))

        return by_name(product), [by_name(x) for x in differences], rounding
