"""Figures of one population, in the order of the page.

Each is a function of a :class:`geomfast.report.population.data.Population` and returns a
matplotlib ``Figure``, or None where there is nothing to draw.
"""

from __future__ import annotations

from geomfast.report.figures import Picture
from geomfast.report.population.figures.curves import curves_figure
from geomfast.report.population.figures.geometry import geometry_figure
from geomfast.report.population.figures.ridges import ridges
from geomfast.report.population.figures.scaling import scaling
from geomfast.report.population.figures.seeds import seeds_figure
from geomfast.report.population.figures.unlocking import unlocking_figure

_SCORES = ("accuracy", "answer_nats")

FIGURES = (
    Picture(
        "distributions", "Distributions over seeds", ridges, _SCORES,
        "Two separate groups in one row mean that seeds of one scale either succeed or fail.",
    ),
    Picture(
        "scaling", "Successes and scores by scale", scaling, ("accuracy",),
        "Compare how the share of successes (left) and the scores of successful seeds (right) grow "
        "with scale; the mean of all seeds mixes both.",
    ),
    Picture(
        "unlocking", "Where it unlocks", unlocking_figure, ("accuracy",),
        "The highlighted bar is the largest change between neighbouring scales, clear of chance "
        "where it reaches above the dashed line.",
    ),
    Picture(
        "single-seeds", "What single seeds would show", curves_figure, ("accuracy",),
        "The same seeds give sudden curves (left) or straight ones (middle), by the chance of "
        "which seed was trained at each scale.",
    ),
    Picture(
        "seeds-needed", "How many seeds are needed", seeds_figure, ("accuracy",),
        "Read off where a curve crosses the dashed line: so many seeds find a success, or know "
        "its probability within 10%.",
    ),
    Picture(
        "early-geometry", "Early geometry and final success", geometry_figure, ("rankme",),
        "Away from one half, RankMe at that step separates seeds that will succeed from others; "
        "only marked points are clear of chance.",
    ),
)  # fmt: skip
