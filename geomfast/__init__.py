"""geomfast: the geometry of neural networks while they learn.

Public names are loaded on first use, so that the command line and analyses that need no torch
do not wait for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from geomfast.integrations.tracker import Tracker
    from geomfast.kernels import backend_report
    from geomfast.measures.gradients import (
        fisher_effective_rank,
        gradient_covariance_rank,
        gradient_gram,
    )
    from geomfast.measures.hessian import (
        hessian_density,
        hessian_top_eigenvalues,
        hessian_trace,
    )
    from geomfast.measures.llc import llc
    from geomfast.measures.probes import probe_accuracy
    from geomfast.measures.spectra import effective_rank, rankme, singular_values
    from geomfast.records import load_records

_HOME = {
    "Tracker": "geomfast.integrations.tracker",
    "backend_report": "geomfast.kernels",
    "effective_rank": "geomfast.measures.spectra",
    "fisher_effective_rank": "geomfast.measures.gradients",
    "gradient_covariance_rank": "geomfast.measures.gradients",
    "gradient_gram": "geomfast.measures.gradients",
    "hessian_density": "geomfast.measures.hessian",
    "hessian_top_eigenvalues": "geomfast.measures.hessian",
    "hessian_trace": "geomfast.measures.hessian",
    "llc": "geomfast.measures.llc",
    "load_records": "geomfast.records",
    "probe_accuracy": "geomfast.measures.probes",
    "rankme": "geomfast.measures.spectra",
    "singular_values": "geomfast.measures.spectra",
}

__all__ = [
    "Tracker",
    "__version__",
    "backend_report",
    "effective_rank",
    "fisher_effective_rank",
    "gradient_covariance_rank",
    "gradient_gram",
    "hessian_density",
    "hessian_top_eigenvalues",
    "hessian_trace",
    "llc",
    "load_records",
    "probe_accuracy",
    "rankme",
    "singular_values",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'geomfast' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
