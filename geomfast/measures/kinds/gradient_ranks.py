"""Effective ranks of per-sample gradients: how many directions they pull the parameters in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geomfast.measures.checks import at_least, check
from geomfast.measures.spec import ORANGE, Column, MeasureSpec, Need, enough_samples

if TYPE_CHECKING:
    from torch import Tensor

    from geomfast.estimators.gradients import GradientRanks

#: What follows the name of a rank that only the first entries of the parameters count for.
FIRST = "_first_50k"


@dataclass(frozen=True)
class GradientRank:
    """Settings of a rank of gradients.

    Attributes:
        first_entries: of the parameters, of which alone a second value is taken: the paper
            (arXiv:2602.15997) computed it from this many.
    """

    first_entries: int = 50_000

    def __post_init__(self) -> None:
        check(self, first_entries=at_least(1))


def _of(
    field: str, name: str
) -> Callable[[GradientRanks, GradientRanks, GradientRank], Iterator[tuple[str, float, float]]]:
    def compute(
        exact: GradientRanks, first: GradientRanks, settings: GradientRank
    ) -> Iterator[tuple[str, float, float]]:
        """The rank over all parameters, and over the first entries."""
        yield name, getattr(exact, field), math.nan
        yield name + FIRST, getattr(first, field), math.nan

    return compute


def ran_on(like: Tensor) -> str:
    """The backend of the Gram matrices."""
    from geomfast.estimators.gradients import backend

    return backend(like)


def _spec(
    name: str, field: str, summary: str, label: str, hatch: str, order: int, meaning: str
) -> MeasureSpec:
    return MeasureSpec(
        name=name,
        summary=summary,
        unit="dimensions",
        settings=GradientRank,
        need=Need.GRADIENTS,
        columns=(Column(name, 1.0, math.inf), Column(name + FIRST, 1.0, math.inf)),
        compute=_of(field, name),
        ran_on=ran_on,
        meaning=meaning,
        judged=enough_samples,
        label=label,
        colour=ORANGE,
        hatch=hatch,
        logarithmic=True,
        order=order,
    )


MEASURES = (
    _spec(
        "fisher_rank",
        "fisher",
        "effective rank of the empirical Fisher matrix, over all parameters",
        "Fisher rank",
        "",
        30,
        "the samples pull the parameters in about {value:.3g} directions",
    ),
    _spec(
        "gradient_covariance_rank",
        "covariance",
        "the same of the gradient covariance",
        "gradient covariance rank",
        "////",
        40,
        "around their mean the gradients vary in about {value:.3g} directions",
    ),
)
