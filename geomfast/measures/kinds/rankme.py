"""RankMe: how many dimensions a layer's activations use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


#: What both say of themselves alike.
_SHARED: dict[str, Any] = {
    "unit": "dimensions",
    "need": Need.ACTIVATIONS,
    "ran_on": ran_on,
    "judged": enough_samples,
    "colour": BLUE,
    "logarithmic": True,
    "per_layer": True,
}
MEASURES = (
    MeasureSpec(
        name="rankme",
        summary="effective dimension of every layer's activations (RankMe)",
        settings=RankMe,
        columns=(Column("rankme", 1.0, math.inf),),
        compute=compute,
        meaning="the activations spread over about {value:.3g} of their directions",
        label="RankMe",
        order=10,
        **_SHARED,
    ),
    MeasureSpec(
        name="centered_rankme",
        summary="effective dimension of every layer's activations less their mean",
        settings=CenteredRankMe,
        columns=(Column("centered_rankme", 1.0, math.inf),),
        compute=compute_centered,
        meaning="around their mean the activations spread over about {value:.3g} directions",
        label="RankMe, centered",
        order=90,
        **_SHARED,
    ),
)
