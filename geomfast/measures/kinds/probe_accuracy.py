"""Linear probes: whether a layer holds the answer before it is given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geomfast.measures.spec import SKY, Column, MeasureSpec, Need

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ProbeAccuracy:
    """Settings of :func:`geomfast.probe_accuracy`."""

    folds: int = 5
    penalties: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    seed: int = 0


def compute(
    activations: Tensor, answers: Tensor, groups: Tensor, right: Tensor, settings: ProbeAccuracy
) -> Iterator[tuple[int | None, str, float, float]]:
    """Held-out accuracy of reading the answer off every layer at the place that predicts it.

    Two more values say what to compare with: of always giving the most common answer, and of the
    model itself. Samples of one group, those of one input say, are left out together: an untrained
    network tells the few inputs of an easy task apart.
    """
    from geomfast.estimators.behaviour import mean_and_stderr
    from geomfast.estimators.probes import probe_accuracy

    found = probe_accuracy(
        activations,
        answers,
        groups=groups,
        folds=settings.folds,
        penalties=settings.penalties,
        seed=settings.seed,
    )
    for layer, (mean, stderr) in enumerate(
        zip(found.mean.tolist(), found.stderr.tolist(), strict=True)
    ):
        yield layer, "probe_accuracy", mean, stderr
    yield None, "probe_accuracy_majority", found.majority, math.nan
    yield None, "probe_accuracy_model", *mean_and_stderr(right)


MEASURES = (
    MeasureSpec(
        name="probe_accuracy",
        summary="held-out accuracy of reading the answer off every layer (linear probes)",
        unit="share of samples",
        settings=ProbeAccuracy,
        need=Need.ANSWERS,
        columns=(
            Column("probe_accuracy", 0.0, 1.0),
            Column("probe_accuracy_majority", 0.0, 1.0),
            Column("probe_accuracy_model", 0.0, 1.0),
        ),
        compute=compute,
        label="linear probes",
        colour=SKY,
        per_layer=True,
        order=20,
    ),
)
