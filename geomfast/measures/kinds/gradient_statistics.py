"""What the Gram matrix of per-sample gradients says beside its ranks: noise, alignment, norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geomfast.measures.kinds.gradient_ranks import ran_on
from geomfast.measures.spec import (
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    Column,
    MeasureSpec,
    Need,
    unless_missing,
)

if TYPE_CHECKING:
    from geomfast.estimators.gradients import GradientRanks

_Values = Iterator[tuple[str, float, float]]


@dataclass(frozen=True)
class NoSettings:
    """They have none."""


def noise_scale(exact: GradientRanks, first: GradientRanks, settings: NoSettings) -> _Values:
    """Variance of the gradients over the squared mean gradient."""
    found = exact.statistics
    yield "gradient_noise_scale", found.noise_scale, found.noise_scale_stderr


def alignment(exact: GradientRanks, first: GradientRanks, settings: NoSettings) -> _Values:
    """Mean cosine between gradients of different samples."""
    found = exact.statistics
    yield "gradient_alignment", found.alignment, found.alignment_stderr


def norm(exact: GradientRanks, first: GradientRanks, settings: NoSettings) -> _Values:
    """Norm of the mean gradient; mean and standard deviation of the samples' own norms."""
    found = exact.statistics
    yield "gradient_norm", found.norm, math.nan
    yield "gradient_norm_of_samples", found.sample_norm, found.spread / math.sqrt(found.samples)
    yield "gradient_norm_spread", found.spread, math.nan


def stiffness(exact: GradientRanks, first: GradientRanks, settings: NoSettings) -> _Values:
    """Mean cosine between gradients of one answer, and between those of different ones."""
    from geomfast.estimators.gradient_statistics import stiffness_of

    assert exact.answers is not None  # the engine refuses samples without
    found = stiffness_of(exact.gram, exact.answers)
    yield "gradient_stiffness", found.between, math.nan
    yield "gradient_stiffness_within", found.within, math.nan


def _noise(value: float, stderr: float, n: int) -> str:
    if math.isnan(value):
        return f"no value: the mean gradient of {n} samples is not told from noise"
    if not stderr < 0.5 * value and value > 0:
        return f"uncertain: more than {n} samples are needed"
    return "ok"


def _spec(
    name: str, summary: str, label: str, meaning: str, compute: Callable[..., Any], **more: Any
) -> MeasureSpec:
    return MeasureSpec(
        name=name,
        summary=summary,
        settings=NoSettings,
        core=False,
        need=Need.GRADIENTS,
        compute=compute,
        ran_on=ran_on,
        label=label,
        meaning=meaning,
        **more,
    )


MEASURES = (
    _spec(
        "gradient_noise_scale",
        "batch size at which a step's noise equals its gradient (gradient noise scale)",
        "gradient noise scale",
        "a batch of {value:.3g} samples has as much noise as gradient",
        noise_scale,
        unit="samples",
        columns=(Column("gradient_noise_scale", 0.0),),
        judged=_noise,
        colour=ORANGE,
        logarithmic=True,
        order=200,
    ),
    _spec(
        "gradient_alignment",
        "mean cosine between the gradients of different samples",
        "gradient alignment",
        "two samples' gradients have a cosine of {value:.3g} on average",
        alignment,
        unit="cosine",
        columns=(Column("gradient_alignment", -1.0, 1.0),),
        judged=unless_missing("a sample's gradient is zero"),
        colour=GREEN,
        order=210,
    ),
    _spec(
        "gradient_norm",
        "norm of the mean gradient, and the samples' own norms",
        "gradient norm",
        "the mean gradient has norm {value:.3g}",
        norm,
        unit="loss per unit of the parameters",
        columns=(
            Column("gradient_norm", 0.0),
            Column("gradient_norm_of_samples", 0.0),
            Column("gradient_norm_spread", 0.0),
        ),
        colour=SKY,
        logarithmic=True,
        order=220,
    ),
    _spec(
        "gradient_stiffness",
        "mean cosine between gradients of different answers, and within one (stiffness)",
        "stiffness",
        "gradients of different answers have a cosine of {value:.3g} on average",
        stiffness,
        unit="cosine",
        columns=(
            Column("gradient_stiffness", -1.0, 1.0),
            Column("gradient_stiffness_within", -1.0, 1.0),
        ),
        judged=unless_missing("one class, or a sample's gradient is zero"),
        colour=PURPLE,
        labelled=True,
        order=230,
    ),
)
