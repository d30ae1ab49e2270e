"""RankMe: how many dimensions a layer's activations use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geomfast.measures.checks import check, not_negative, truth
from geomfast.measures.spec import BLUE, Column, MeasureSpec, Need, enough_samples

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RankMe:
    """Settings of :func:`geomfast.rankme`."""

    center: bool = False
    eps: float = 0.0

    def __post_init__(self) -> None:
        check(self, center=truth, eps=not_negative)


@dataclass(frozen=True)
class CenteredRankMe:
    """Settings of :func:`geomfast.rankme` with `center=True`."""

    eps: float = 0.0

    def __post_init__(self) -> None:
        check(self, eps=not_negative)


def compute_centered(x: Tensor, settings: CenteredRankMe) -> Tensor:
    """As :func:`compute`, of activations less their mean over samples."""
    return compute(x, RankMe(center=True, eps=settings.eps))


def compute(x: Tensor, settings: RankMe) -> Tensor:
    """exp of the entropy of the normalised singular values, of every matrix of x (..., N, d)."""
    from geomfast.estimators.spectra import rankme

    return rankme(x, center=settings.center, eps=settings.eps)


def ran_on(x: Tensor) -> str:
    """The backend of the spectra of these activations."""
    from geomfast.estimators.spectra import backend

    return backend(x)


MEASURES = (
    MeasureSpec(
        name="rankme",
        summary="effective dimension of every layer's activations (RankMe)",
        unit="dimensions",
        settings=RankMe,
        need=Need.ACTIVATIONS,
        columns=(Column("rankme", 1.0, math.inf),),
        compute=compute,
        ran_on=ran_on,
        meaning="the activations spread over about {value:.3g} of their directions",
        judged=enough_samples,
        label="RankMe",
        colour=BLUE,
        logarithmic=True,
        per_layer=True,
        order=10,
    ),
    MeasureSpec(
        name="centered_rankme",
        summary="effective dimension of every layer's activations less their mean",
        unit="dimensions",
        settings=CenteredRankMe,
        need=Need.ACTIVATIONS,
        columns=(Column("centered_rankme", 1.0, math.inf),),
        compute=compute_centered,
        ran_on=ran_on,
        meaning="around their mean the activations spread over about {value:.3g} directions",
        judged=enough_samples,
        label="RankMe, centered",
        colour=BLUE,
        logarithmic=True,
        per_layer=True,
        order=90,
    ),
)
