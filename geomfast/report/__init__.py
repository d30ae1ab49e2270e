"""Claims -> figures, tables and one self-contained HTML page."""

from geomfast.report.assemble import build
from geomfast.report.extras import MissingExtra
from geomfast.report.figures.influence import influence_figure

__all__ = ["MissingExtra", "build", "influence_figure"]
