"""Shape of every layer's spectrum: its decay, and dimensions by other counts than RankMe's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geomfast.measures.checks import at_least, check, or_none, share, truth
from geomfast.measures.kinds.rankme import ran_on
from geomfast.measures.spec import BLUE, PURPLE, Column, MeasureSpec, Need, enough_samples

if TYPE_CHECKING:
    from torch import Tensor

    from geomfast.estimators.spectra import Spectrum


@dataclass(frozen=True)
class Centering:
    """Settings of what is computed from a spectrum.

    Attributes:
        center: whether it is that of activations less their mean over samples.
    """

    center: bool = False

    def __post_init__(self) -> None:
        check(self, center=truth)


@dataclass(frozen=True)
class AlphaReQ(Centering):
    """Settings of :func:`geomfast.alpha_req`.

    Attributes:
        center: whether the spectrum is that of activations less their mean over samples.
    """

    first: int = 5
    last: int | None = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, first=at_least(1), last=or_none(at_least(1)))
        if self.last is not None and self.last - self.first < 4:
            raise ValueError(
                f"first = {self.first} to last = {self.last} are fewer than 5 eigenvalues"
            )


@dataclass(frozen=True)
class NumericalRank(Centering):
    """Settings of :func:`geomfast.numerical_rank`.

    Attributes:
        center: whether the spectrum is that of activations less their mean over samples.
    """

    tol: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, tol=share)
        if self.tol < 1e-7:
            raise ValueError(
                f"tol must be 1e-7 or more, not {self.tol:g}: smaller singular values are rounding"
            )


def decay(spectrum: Spectrum, settings: AlphaReQ) -> dict[str, Any]:
    """Exponent of the decay, with its error, and how well it fits."""
    from geomfast.estimators.spectrum_shape import alpha_req

    found = alpha_req(spectrum.values, first=settings.first, last=settings.last)
    return {"alpha_req": (found.alpha, found.stderr), "alpha_req_r2": found.r2}


def rank(spectrum: Spectrum, settings: NumericalRank) -> Tensor:
    """Singular values above a share of the largest."""
    from geomfast.estimators.spectrum_shape import numerical_rank

    return numerical_rank(spectrum.values, tol=settings.tol)


def _of(name: str) -> Callable[[Spectrum, Centering], Tensor]:
    def compute(spectrum: Spectrum, settings: Centering) -> Tensor:
        """The function of :mod:`geomfast.estimators.spectrum_shape` of the measure's name."""
        from geomfast.estimators import spectrum_shape

        return getattr(spectrum_shape, name)(spectrum.values)

    return compute


def _fitted(value: float, stderr: float, n: int) -> str:
    if math.isnan(value):
        return "no value: fewer than 5 eigenvalues within the range of the fit"
    return "ok" if stderr < 0.1 * abs(value) else "no power law: the line misses its points"


def _finite(value: float, stderr: float, n: int) -> str:
    if math.isnan(value):
        return "no value: activations are zero"
    return "singular within rounding" if math.isinf(value) else "ok"


def _spec(
    name: str,
    summary: str,
    label: str,
    meaning: str,
    order: int,
    *,
    settings: type = Centering,
    columns: tuple[Column, ...] = (),
    compute: Callable[..., Any] | None = None,
    unit: str = "dimensions",
    low: float = 0.0,
    high: float = math.inf,
    judged: Callable[[float, float, int], str] = enough_samples,
    colour: str = BLUE,
    logarithmic: bool = True,
) -> MeasureSpec:
    return MeasureSpec(
        name=name,
        summary=summary,
        unit=unit,
        settings=settings,
        core=False,
        need=Need.SPECTRA,
        columns=columns or (Column(name, low, high),),
        compute=compute or _of(name),
        ran_on=ran_on,
        label=label,
        meaning=meaning,
        judged=judged,
        colour=colour,
        logarithmic=logarithmic,
        per_layer=True,
        order=order,
    )


MEASURES = (
    _spec(
        "alpha_req",
        "exponent by which the eigenvalues of every layer's activations decay (alpha-ReQ)",
        "alpha-ReQ",
        "the i-th eigenvalue falls as i^-{value:.3g}",
        100,
        settings=AlphaReQ,
        columns=(Column("alpha_req"), Column("alpha_req_r2", 0.0, 1.0)),
        compute=decay,
        unit="exponent",
        judged=_fitted,
        colour=PURPLE,
        logarithmic=False,
    ),
    _spec(
        "participation_ratio",
        "participation ratio of the eigenvalues of every layer's activations",
        "participation ratio",
        "the variance is shared by about {value:.3g} directions",
        110,
    ),
    _spec(
        "stable_rank",
        "sum of squared singular values of every layer over the largest square",
        "stable rank",
        "the activations hold {value:.3g} times the variance of their first direction",
        120,
    ),
    _spec(
        "numerical_rank",
        "singular values of every layer above a share of the largest",
        "numerical rank",
        "the activations span {value:.0f} directions beyond rounding",
        130,
        settings=NumericalRank,
        compute=rank,
        judged=lambda value, stderr, n: (
            f"bounded by the {n} samples: more of them would raise it" if value >= n - 1 else "ok"
        ),
    ),
    _spec(
        "first_component_share",
        "share of the first principal component in every layer's sum of squares",
        "first component",
        "one direction holds {value:.1%} of the sum of squares",
        140,
        unit="share of the sum of squares",
        high=1.0,
        judged=_finite,
        colour=PURPLE,
        logarithmic=False,
    ),
    _spec(
        "condition_number",
        "largest over smallest singular value of every layer's activations",
        "condition number",
        "the largest singular value is {value:.3g} times the smallest",
        150,
        unit="ratio",
        low=1.0,
        judged=_finite,
        colour=PURPLE,
    ),
)
