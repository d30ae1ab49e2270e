"""The catalogue of measures, each in a file of its own.

Nothing here needs torch until a value is computed, so that help texts, estimates of cost, analyses
and figures can ask what a measure is.
"""

from geomfast.measures.catalog import UnknownMeasure, catalog, measures, needing, spec_of
from geomfast.measures.spec import Column, MeasureSpec, Need

__all__ = [
    "Column",
    "MeasureSpec",
    "Need",
    "UnknownMeasure",
    "catalog",
    "measures",
    "needing",
    "spec_of",
]
