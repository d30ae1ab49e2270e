"""Similarity of layers: linear centered kernel alignment between every two of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geomfast.measures.checks import check, truth
from geomfast.measures.spec import GREEN, Column, MeasureSpec, Need

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CKA:
    """Settings of :func:`geomfast.cka`."""

    debiased: bool = True

    def __post_init__(self) -> None:
        check(self, debiased=truth)


def compute(
    labels: Sequence[str], states: Sequence[Tensor], settings: CKA
) -> Iterator[tuple[int, str, float, float]]:
    """Alignment of each layer with the final one, and with every earlier one by its name."""
    import torch

    from geomfast.estimators.similarity import alignment, kernel_matrix

    if len(states) > 1:
        kernels = torch.stack([kernel_matrix(x, debiased=settings.debiased) for x in states])
        found = alignment(kernels[:, None], kernels)
    else:
        found = torch.ones(1, 1, dtype=torch.float64, device="cpu")
    matrix = found.tolist()
    for i, row in enumerate(matrix):
        yield i, "cka", row[-1], math.nan
        for j in range(i):
            yield i, f"cka_{labels[j].replace(' ', '_')}", row[j], math.nan


MEASURES = (
    MeasureSpec(
        name="cka",
        summary="similarity of every two layers' activations (linear CKA); its own value: to final",
        unit="alignment",
        settings=CKA,
        core=False,
        need=Need.LAYERS,
        columns=(Column("cka", -1.0, 1.0),),
        compute=compute,
        meaning="aligned with the final state to {value:.3g}",
        judged=lambda value, stderr, n: (
            "no value: a layer does not vary over the samples" if math.isnan(value) else "ok"
        ),
        label="CKA to the final state",
        colour=GREEN,
        per_layer=True,
        order=180,
    ),
)
