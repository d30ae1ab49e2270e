"""RankMe: how many dimensions a layer's activations use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geomfast.measures.checks import check, not_negative, truth
from geomfast.measures.spec import BLUE, Column, MeasureSpec, Need, enough_samples

if TYPE_CHECKING:
    from torch import Tensor

    from geomfast.estimators.spectra import Spectrum


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

    @property
    def center(self) -> bool:
        return True


def compute(spectrum: Spectrum, settings: RankMe | CenteredRankMe) -> Tensor:
    """exp of the entropy of the normalised singular values, of every spectrum."""
    return spectrum.rankme(settings.eps)


def ran_on(x: Tensor) -> str:
    """The backend of the spectra of these activations."""
    from geomfast.estimators.spectra import backend

    return backend(x)


#: What both say of themselves alike.
_SHARED: dict[str, Any] = {
    "unit": "dimensions",
    "need": Need.SPECTRA,
    "compute": compute,
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
        meaning="around their mean the activations spread over about {value:.3g} directions",
        label="RankMe, centered",
        order=90,
        **_SHARED,
    ),
)
