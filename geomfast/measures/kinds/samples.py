"""How samples lie within a layer: on a set of which dimension, and in which directions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geomfast.measures.checks import check, positive
from geomfast.measures.spec import ORANGE, SKY, Column, MeasureSpec, Need, unless_missing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TwoNN:
    """Settings of :func:`geomfast.two_nn`."""

    fraction: float = 0.9

    def __post_init__(self) -> None:
        check(self, fraction=positive)
        if self.fraction > 1.0:
            raise ValueError(f"fraction must be at most 1, not {self.fraction:g}")


@dataclass(frozen=True)
class Anisotropy:
    """:func:`geomfast.anisotropy` has no settings."""


def dimension(x: Tensor, settings: TwoNN) -> dict[str, Any]:
    """Intrinsic dimension, and the number of distinct samples that it comes from."""
    from geomfast.estimators.intrinsic_dimension import two_nn

    found = two_nn(x, fraction=settings.fraction)
    return {"two_nn": (found.mean, found.stderr), "two_nn_samples": found.samples}


def cosine(x: Tensor, settings: Anisotropy) -> dict[str, Any]:
    """Mean cosine between different samples."""
    from geomfast.estimators.similarity import anisotropy

    found = anisotropy(x)
    return {"anisotropy": (found.mean, found.stderr)}


def _distinct(value: float, stderr: float, n: int) -> str:
    if math.isnan(value):
        return "no value: fewer than 20 distinct samples, or distances within rounding"
    # The number of samples that the nearest neighbours need grows as a power of the dimension.
    return "ok" if value < math.log2(n) else f"too low: {n} samples cannot fill its dimensions"


MEASURES = (
    MeasureSpec(
        name="two_nn",
        summary="intrinsic dimension of every layer's activations (TwoNN)",
        unit="dimensions",
        settings=TwoNN,
        core=False,
        need=Need.ACTIVATIONS,
        columns=(Column("two_nn", 0.0), Column("two_nn_samples", 0.0)),
        compute=dimension,
        meaning="the samples lie on a set of about {value:.3g} dimensions",
        judged=_distinct,
        label="intrinsic dimension",
        colour=SKY,
        logarithmic=True,
        per_layer=True,
        order=160,
    ),
    MeasureSpec(
        name="anisotropy",
        summary="mean cosine between the samples' activations at every layer",
        unit="cosine",
        settings=Anisotropy,
        core=False,
        need=Need.ACTIVATIONS,
        columns=(Column("anisotropy", -1.0, 1.0),),
        compute=cosine,
        meaning="two samples' activations have a cosine of {value:.3g} on average",
        judged=unless_missing("a sample's activations are zero"),
        label="anisotropy",
        colour=ORANGE,
        per_layer=True,
        order=170,
    ),
)
