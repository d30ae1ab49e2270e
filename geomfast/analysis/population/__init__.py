"""Populations: many seeds at every scale, and the distribution their outcomes form.

Works on any table of (scale, seed, score), from geomfast's own records or from a file.  Source:
Zhao et al., Random Scaling of Emergent Capabilities (arXiv:2502.17356).
"""

from geomfast.analysis.population.curves import (
    breakthroughness,
    extremes,
    improvement,
    linearity,
    single_seed_curves,
)
from geomfast.analysis.population.dip import dip, dip_test, spread_ties
from geomfast.analysis.population.distance import Unlocking, distances, unlocking, wasserstein2
from geomfast.analysis.population.geometry import best_early, first_telling, geometry
from geomfast.analysis.population.modes import modes
from geomfast.analysis.population.seeds import seeds_curve, seeds_needed
from geomfast.analysis.population.summary import ALPHA, LEAST_SEEDS, SUCCESS, bins, summary
from geomfast.analysis.population.table import (
    TableError,
    from_records,
    outcomes,
    read_table,
    resolution_of,
)

__all__ = [
    "ALPHA",
    "LEAST_SEEDS",
    "SUCCESS",
    "TableError",
    "Unlocking",
    "best_early",
    "bins",
    "breakthroughness",
    "dip",
    "dip_test",
    "distances",
    "extremes",
    "first_telling",
    "from_records",
    "geometry",
    "improvement",
    "linearity",
    "modes",
    "outcomes",
    "read_table",
    "resolution_of",
    "seeds_curve",
    "seeds_needed",
    "single_seed_curves",
    "spread_ties",
    "summary",
    "unlocking",
    "wasserstein2",
]
