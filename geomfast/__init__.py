"""geomfast: the geometry of neural networks while they learn.

Public names are loaded on first use, so that the command line and analyses that need no torch
do not wait for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from geomfast.moved import install

__version__ = "0.1.0"
install()

if TYPE_CHECKING:
    from geomfast.estimators.gradient_norms import gradient_norms
    from geomfast.estimators.gradients import (
        fisher_effective_rank,
        gradient_covariance_rank,
        gradient_gram,
    )
    from geomfast.estimators.hessian import (
        hessian_density,
        hessian_top_eigenvalues,
        hessian_trace,
    )
    from geomfast.estimators.hessian_diagonal import hessian_diagonal
    from geomfast.estimators.hessian_inverse import inverse_hessian_product
    from geomfast.estimators.hessian_operator import hessian_operator
    from geomfast.estimators.llc import llc
    from geomfast.estimators.ntk import ntk
    from geomfast.estimators.probes import probe_accuracy
    from geomfast.estimators.sampling.automatic import calibrate_llc
    from geomfast.estimators.spectra import effective_rank, rankme, singular_values
    from geomfast.kernels import backend_report
    from geomfast.measures.model.call import measure
    from geomfast.records import load_records
    from geomfast.tracker.samples import SampleSets
    from geomfast.tracker.tracker import Tracker

_HOME = {
    "SampleSets": "geomfast.tracker.samples",
    "Tracker": "geomfast.tracker.tracker",
    "backend_report": "geomfast.kernels",
    "calibrate_llc": "geomfast.estimators.sampling.automatic",
    "effective_rank": "geomfast.estimators.spectra",
    "fisher_effective_rank": "geomfast.estimators.gradients",
    "gradient_covariance_rank": "geomfast.estimators.gradients",
    "gradient_gram": "geomfast.estimators.gradients",
    "gradient_norms": "geomfast.estimators.gradient_norms",
    "hessian_density": "geomfast.estimators.hessian",
    "hessian_diagonal": "geomfast.estimators.hessian_diagonal",
    "hessian_operator": "geomfast.estimators.hessian_operator",
    "hessian_top_eigenvalues": "geomfast.estimators.hessian",
    "hessian_trace": "geomfast.estimators.hessian",
    "inverse_hessian_product": "geomfast.estimators.hessian_inverse",
    "llc": "geomfast.estimators.llc",
    "load_records": "geomfast.records",
    "measure": "geomfast.measures.model.call",
    "ntk": "geomfast.estimators.ntk",
    "probe_accuracy": "geomfast.estimators.probes",
    "rankme": "geomfast.estimators.spectra",
    "singular_values": "geomfast.estimators.spectra",
}

__all__ = [
    "SampleSets",
    "Tracker",
    "__version__",
    "backend_report",
    "calibrate_llc",
    "effective_rank",
    "fisher_effective_rank",
    "gradient_covariance_rank",
    "gradient_gram",
    "gradient_norms",
    "hessian_density",
    "hessian_diagonal",
    "hessian_operator",
    "hessian_top_eigenvalues",
    "hessian_trace",
    "inverse_hessian_product",
    "llc",
    "load_records",
    "measure",
    "ntk",
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
