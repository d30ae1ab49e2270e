"""The products of a model's Hessian: by hand for geomfast's own, by autograd for others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from geomfast.estimators.batches import batches_of
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.curvature.gpt import GptProducts, NotPlain
from geomfast.estimators.curvature.products import DataProducts, HessianProducts
from geomfast.testbed.models.gpt import GPT


class FusedProducts(DataProducts):
    """Products of a geomfast GPT's Hessian by the R-operator (`GptProducts`).

    Raises:
        NotPlain: the model or the loss is of another kind, or what has to be kept is too much.
    """

    def _build(self, kept_bytes: int) -> None:
        model = self.model
        if not isinstance(model, GPT) or not all(isinstance(x, Tensor) for x in self.batches):
            raise NotPlain("not geomfast's GPT on token ids")
        if sum(_kept(model, batch) for batch in self.batches) > kept_bytes:
            raise NotPlain(f"more than {kept_bytes} bytes would have to be kept")
        with self.replay.on_stream():
            # By number, so that what is wrong with a batch is said of it.
            numbers = range(len(self.batches))
            checked = lambda model, i: self.losses_of(i)  # noqa: E731
            self._products = GptProducts(model, checked, numbers, self.parameters)

    def __call__(self, v: Tensor) -> Tensor:
        return self.replay.call("", self._products.product, v)

    def gradient(self) -> Tensor:
        return self._products.gradient()

    def where_not_finite(self, v: Tensor) -> str:
        general = HessianProducts(
            self.model, self.loss_fn, self.batches, list(self.parameters), kept_bytes=0
        )
        return general.where_not_finite(v)


def _kept(model: GPT, tokens: Tensor) -> int:
    """Bytes of the activations and adjoints that a batch leaves, as `GptProducts` counts them."""
    scale = model.scale
    numbers = 32 * scale.d_model + 3 * scale.heads * tokens.shape[-1]
    return scale.layers * tokens.numel() * numbers * model.tokens.weight.element_size()


def hessian_products(
    model: nn.Module, loss_fn: LossFunction, data: Any, params: Iterable[str] | None = None
) -> DataProducts:
    """The fastest products of the Hessian for this model and loss."""
    batches = batches_of(data)  # of an iterable that may be walked only once
    try:
        return FusedProducts(model, loss_fn, batches, params)
    except NotPlain:
        return HessianProducts(model, loss_fn, batches, params)
