"""Neural collapse: whether activations of one answer fall together, and answers apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geomfast.measures.spec import PURPLE, Column, MeasureSpec, Need, unless_missing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NeuralCollapse:
    """:func:`geomfast.neural_collapse` has no settings."""


def compute(
    activations: Tensor, answers: Tensor, classifier: Tensor | None, settings: NeuralCollapse
) -> Iterator[tuple[int | None, str, float, float]]:
    """NC1 and NC2 of every layer, and NC3 of the final state where its classifier is known."""
    from geomfast.estimators.neural_collapse import neural_collapse

    if int((answers.unique(return_counts=True)[1] >= 2).sum()) < 2:
        for layer in range(len(activations)):
            for column in ("neural_collapse", "neural_collapse_norms", "neural_collapse_angles"):
                yield layer, column, math.nan, math.nan
        return
    found = neural_collapse(activations, answers, classifier=classifier)
    last = len(activations) - 1
    for layer in range(len(activations)):
        yield layer, "neural_collapse", float(found.within[layer]), math.nan
        yield layer, "neural_collapse_norms", float(found.norms[layer]), math.nan
        yield layer, "neural_collapse_angles", float(found.angles[layer]), math.nan
    if classifier is not None:
        yield last, "neural_collapse_classifier", float(found.classifier[last]), math.nan


MEASURES = (
    MeasureSpec(
        name="neural_collapse",
        summary="spread within the classes of answers over that between them (neural collapse)",
        unit="ratio",
        settings=NeuralCollapse,
        core=False,
        need=Need.CLASSES,
        columns=(
            Column("neural_collapse", 0.0),
            Column("neural_collapse_norms", 0.0),
            Column("neural_collapse_angles", 0.0, 2.0),
            Column("neural_collapse_classifier", 0.0, 4.0),
        ),
        compute=compute,
        meaning="samples of one answer spread {value:.3g} times as far as answers lie apart",
        judged=unless_missing("fewer than 2 answers have 2 samples, or their means do not differ"),
        label="neural collapse",
        colour=PURPLE,
        logarithmic=True,
        per_layer=True,
        order=190,
    ),
)
