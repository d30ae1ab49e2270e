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
    Picture("distributions", "Distributions over seeds", ridges, _SCORES),
    Picture("scaling", "What the distributions come to", scaling, ("accuracy",)),
    Picture("unlocking", "Where it unlocks", unlocking_figure, ("accuracy",)),
    Picture("single-seeds", "What single seeds would show", curves_figure, ("accuracy",)),
    Picture("seeds-needed", "How many seeds are needed", seeds_figure, ("accuracy",)),
    Picture("early-geometry", "Early geometry and final success", geometry_figure, ("rankme",)),
)
