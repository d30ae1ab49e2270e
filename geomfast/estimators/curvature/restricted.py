"""Products of a Hessian restricted to some entries of parameters, such as those of one head."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, cast

import torch
from torch import Tensor

from geomfast.estimators.curvature.products import DataProducts, HessianProducts
from geomfast.estimators.entries import Selection, sizes_of


class RestrictedProducts(HessianProducts):
    """The submatrix of selected entries: v is filled up with zeros, and their places are taken out.

    Args:
        whole: products of the same parameters, all of their entries.
        selection: of entries.

    Attributes:
        parameters: by name, those that entries are of.
        sizes: selected entries of each.
        dimension: P, of all.
    """

    def __init__(self, whole: DataProducts, selection: Selection):
        # What `whole` has built is used, and nothing is built here.
        self.whole = whole
        self.model, self.loss_fn = whole.model, whole.loss_fn
        self.parameters, self.batches, self.counts = whole.parameters, whole.batches, whole.counts
        self.first_losses, self.custom = whole.first_losses, whole.custom
        self.replay, self.like = whole.replay, whole.like
        # Of their own: what was found of all entries is not of some.
        self.found: dict[Hashable, Any] = {}
        self.sizes = sizes_of(selection)
        self.dimension = sum(self.sizes.values())
        self._places: dict[str, Tensor] = {}
        for name, size in whole.sizes.items():
            every = torch.arange(size, device=whole.like.device)
            self._places[name] = selection.entries.get(name, every)

    def __call__(self, v: Tensor) -> Tensor:
        """(P,) -> (P,) of the type of `like`."""
        names = list(self.parameters)
        return self._taken(names, self.whole(self._filled(names, v)))

    def block(self, names: list[str], v: Tensor) -> Tensor:
        """Product with the diagonal block of some parameters' entries: (p,) -> (p,)."""
        whole = cast(HessianProducts, self.whole)  # who asks for blocks has made no other
        return self._taken(names, whole.block(names, self._filled(names, v)))

    def gradient(self) -> Tensor:
        """(P,) of the type of `like`: the gradient of the mean loss."""
        return self._taken(list(self.parameters), self.whole.gradient())

    def where_not_finite(self, v: Tensor) -> str:
        """Which batch's product with v is not finite, for a message."""
        return self.whole.where_not_finite(self._filled(list(self.parameters), v))

    def _filled(self, names: list[str], v: Tensor) -> Tensor:
        """Entries of these parameters' selection -> of all of their entries."""
        parts = v.split([self.sizes[name] for name in names])
        found = []
        for name, part in zip(names, parts, strict=True):
            zeros = part.new_zeros(self.whole.sizes[name])
            found.append(zeros.index_copy(0, self._places[name], part))
        return torch.cat(found)

    def _taken(self, names: list[str], x: Tensor) -> Tensor:
        """All entries of these parameters -> those selected."""
        parts = x.split([self.whole.sizes[name] for name in names])
        return torch.cat(
            [part[self._places[name]] for name, part in zip(names, parts, strict=True)]
        )
