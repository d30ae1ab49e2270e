"""Records -> events and claims.  Needs neither torch nor a model."""

from geomfast.analysis.check import ContradictoryRecords, check
from geomfast.analysis.claim import Claim
from geomfast.analysis.claims import CLAIMS, claims
from geomfast.analysis.collapse import collapse, half_collapse
from geomfast.analysis.concordance import pairs, swaps, within_class
from geomfast.analysis.crosscorrelation import cross_correlation
from geomfast.analysis.depth import depth_order, depth_summary
from geomfast.analysis.difficulty import early_correlation, early_geometry
from geomfast.analysis.events import emergence
from geomfast.analysis.floors import across_scales, floors
from geomfast.analysis.hessian import hessian, hessian_summary
from geomfast.analysis.leads import leads, precursors
from geomfast.analysis.llc import llc, llc_summary, llc_values
from geomfast.analysis.others import other_measures, other_summary
from geomfast.analysis.paper import REFERENCES, reference
from geomfast.analysis.probes import probe_emergence, probe_leads
from geomfast.analysis.rates import (
    SeveralRates,
    at_rate,
    best_rates,
    floors_by_rate,
    rate_losses,
    rates,
)
from geomfast.analysis.summary import cells, mod_floor, summarise
from geomfast.analysis.topdown import top_down, top_down_summary
from geomfast.analysis.truncation import truncation, truncation_summary
from geomfast.testbed.tasks.names import task_level

__all__ = [
    "CLAIMS",
    "REFERENCES",
    "Claim",
    "ContradictoryRecords",
    "SeveralRates",
    "across_scales",
    "at_rate",
    "best_rates",
    "cells",
    "check",
    "claims",
    "collapse",
    "cross_correlation",
    "depth_order",
    "depth_summary",
    "early_correlation",
    "early_geometry",
    "emergence",
    "floors",
    "floors_by_rate",
    "half_collapse",
    "hessian",
    "hessian_summary",
    "leads",
    "llc",
    "llc_summary",
    "llc_values",
    "mod_floor",
    "other_measures",
    "other_summary",
    "pairs",
    "precursors",
    "probe_emergence",
    "probe_leads",
    "rate_losses",
    "rates",
    "reference",
    "summarise",
    "swaps",
    "task_level",
    "top_down",
    "top_down_summary",
    "truncation",
    "truncation_summary",
    "within_class",
]
