"""Similarity of layers with each other and with themselves at earlier checkpoints (linear CKA)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geomfast.measures.checks import check, truth
from geomfast.measures.spec import GREEN, Column, MeasureSpec, Need, unless_missing

if TYPE_CHECKING:
    from torch import Tensor

    from geomfast.measures.subject import Earlier

#: Before the step of an earlier checkpoint in the name of a record.
AT_STEP = "cka_step_"


@dataclass(frozen=True)
class CKA:
    """Settings of :func:`geomfast.cka`."""

    debiased: bool = True

    def __post_init__(self) -> None:
        check(self, debiased=truth)


def compute(
    labels: Sequence[str], states: Sequence[Tensor], settings: CKA, earlier: Earlier | None = None
) -> Iterator[tuple[int, str, float, float]]:
    """Alignment of each layer with the final one, with every earlier layer by its name, and with
    itself: at the first checkpoint, at the last one before, and, of the final state, at those kept.
    """
    import torch

    from geomfast.estimators.similarity import LEAST_DEBIASED, alignment, kernel_matrix

    last = len(labels) - 1
    if settings.debiased and len(states[0]) < LEAST_DEBIASED:
        for i in range(max(last, 1)):
            yield i, "cka", math.nan, math.nan
        return
    # Float32, as they are kept: a value is one whether its checkpoint was resumed or not.
    kernels = torch.stack([kernel_matrix(x, debiased=settings.debiased).float() for x in states])
    among = alignment(kernels[:, None].double(), kernels.double()).tolist()
    for i, row in enumerate(among):
        if i < last or last == 0:  # the final state is aligned with itself
            yield i, "cka", row[last], math.nan
        for j in range(i):
            yield i, f"cka_{labels[j].replace(' ', '_')}", row[j], math.nan
    if earlier is None:
        return
    there = {step: kept for step, kept in earlier.steps.items() if set(labels) <= set(kept)}
    for name, step in zip(("cka_first", "cka_previous"), _ends(there), strict=False):
        for i, label in enumerate(labels):
            own = there[step][label].to(kernels.device).double()
            yield i, name, float(alignment(kernels[i].double(), own)), math.nan
    for step, kept in there.items():
        own = kept[labels[last]].to(kernels.device).double()
        yield last, f"{AT_STEP}{step}", float(alignment(kernels[last].double(), own)), math.nan
    earlier.keep(dict(zip(labels, kernels, strict=True)))


def _ends(steps: Mapping[int, object]) -> list[int]:
    return [min(steps), max(steps)] if steps else []


MEASURES = (
    MeasureSpec(
        name="cka",
        summary="similarity of every two layers, and of each to its past (linear CKA)",
        unit="alignment",
        settings=CKA,
        core=False,
        need=Need.LAYERS,
        columns=(
            Column("cka", -1.0, 1.0),
            Column("cka_first", -1.0, 1.0),
            Column("cka_previous", -1.0, 1.0),
        ),
        compute=compute,
        meaning="aligned with the final state to {value:.3g}",
        judged=unless_missing("a layer does not vary over the samples, or these are fewer than 4"),
        label="CKA to the final state",
        colour=GREEN,
        per_layer=True,
        order=180,
    ),
)
