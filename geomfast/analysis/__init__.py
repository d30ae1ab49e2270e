"""Records -> events and claims.  Needs neither torch nor a model."""

from geomfast.analysis.collapse import collapse, half_collapse
from geomfast.analysis.events import emergence
from geomfast.analysis.hessian import hessian, hessian_summary
from geomfast.analysis.llc import llc, llc_summary, llc_values
from geomfast.analysis.paper import REFERENCES, reference
from geomfast.analysis.summary import cells, mod_floor, summarise
from geomfast.analysis.topdown import top_down, top_down_summary
from geomfast.analysis.trajectories import select, task_level, trajectories
from geomfast.analysis.truncation import truncation, truncation_summary

__all__ = [
    "REFERENCES",
    "cells",
    "collapse",
    "emergence",
    "half_collapse",
    "hessian",
    "hessian_summary",
    "llc",
    "llc_summary",
    "llc_values",
    "mod_floor",
    "reference",
    "select",
    "summarise",
    "task_level",
    "top_down",
    "top_down_summary",
    "trajectories",
    "truncation",
    "truncation_summary",
]
