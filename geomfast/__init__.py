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
    from geomfast.estimators.gradient_statistics import gradient_statistics, gradient_stiffness
    from geomfast.estimators.gradients import (
        fisher_effective_rank,
        gradient_covariance_rank,
        gradient_gram,
    )
    from geomfast.estimators.hessian import hessian_density, hessian_top_eigenvalues, hessian_trace
    from geomfast.estimators.hessian_diagonal import hessian_diagonal
    from geomfast.estimators.hessian_inverse import inverse_hessian_product
    from geomfast.estimators.hessian_operator import hessian_operator
    from geomfast.estimators.influence import influence, influence_from_losses
    from geomfast.estimators.intrinsic_dimension import two_nn
    from geomfast.estimators.llc import llc
    from geomfast.estimators.neural_collapse import neural_collapse
    from geomfast.estimators.ntk import ntk
    from geomfast.estimators.probes import probe_accuracy
    from geomfast.estimators.sampling.automatic import calibrate_llc
    from geomfast.estimators.sampling.loss_files import load_losses
    from geomfast.estimators.similarity import anisotropy, cka
    from geomfast.estimators.spectra import effective_rank, rankme, singular_values
    from geomfast.estimators.spectrum_shape import (
        alpha_req,
        condition_number,
        first_component_share,
        numerical_rank,
        participation_ratio,
        stable_rank,
    )
    from geomfast.estimators.susceptibility import susceptibility, susceptibility_from_losses
    from geomfast.kernels import backend_report
    from geomfast.measures.model.call import measure
    from geomfast.records import load_records
    from geomfast.tracker.samples import SampleSets
    from geomfast.tracker.tracker import Tracker

_HOME = {
    "SampleSets": "geomfast.tracker.samples",
    "Tracker": "geomfast.tracker.tracker",
    "alpha_req": "geomfast.estimators.spectrum_shape",
    "anisotropy": "geomfast.estimators.similarity",
    "backend_report": "geomfast.kernels",
    "calibrate_llc": "geomfast.estimators.sampling.automatic",
    "cka": "geomfast.estimators.similarity",
    "condition_number": "geomfast.estimators.spectrum_shape",
    "effective_rank": "geomfast.estimators.spectra",
    "first_component_share": "geomfast.estimators.spectrum_shape",
    "fisher_effective_rank": "geomfast.estimators.gradients",
    "gradient_covariance_rank": "geomfast.estimators.gradients",
    "gradient_gram": "geomfast.estimators.gradients",
    "gradient_norms": "geomfast.estimators.gradient_norms",
    "gradient_statistics": "geomfast.estimators.gradient_statistics",
    "gradient_stiffness": "geomfast.estimators.gradient_statistics",
    "hessian_density": "geomfast.estimators.hessian",
    "hessian_diagonal": "geomfast.estimators.hessian_diagonal",
    "hessian_operator": "geomfast.estimators.hessian_operator",
    "hessian_top_eigenvalues": "geomfast.estimators.hessian",
    "hessian_trace": "geomfast.estimators.hessian",
    "influence": "geomfast.estimators.influence",
    "influence_from_losses": "geomfast.estimators.influence",
    "inverse_hessian_product": "geomfast.estimators.hessian_inverse",
    "llc": "geomfast.estimators.llc",
    "load_losses": "geomfast.estimators.sampling.loss_files",
    "load_records": "geomfast.records",
    "measure": "geomfast.measures.model.call",
    "neural_collapse": "geomfast.estimators.neural_collapse",
    "ntk": "geomfast.estimators.ntk",
    "numerical_rank": "geomfast.estimators.spectrum_shape",
    "participation_ratio": "geomfast.estimators.spectrum_shape",
    "probe_accuracy": "geomfast.estimators.probes",
    "rankme": "geomfast.estimators.spectra",
    "singular_values": "geomfast.estimators.spectra",
    "stable_rank": "geomfast.estimators.spectrum_shape",
    "susceptibility": "geomfast.estimators.susceptibility",
    "susceptibility_from_losses": "geomfast.estimators.susceptibility",
    "two_nn": "geomfast.estimators.intrinsic_dimension",
}

__all__ = [
    "SampleSets",
    "Tracker",
    "__version__",
    "alpha_req",
    "anisotropy",
    "backend_report",
    "calibrate_llc",
    "cka",
    "condition_number",
    "effective_rank",
    "first_component_share",
    "fisher_effective_rank",
    "gradient_covariance_rank",
    "gradient_gram",
    "gradient_norms",
    "gradient_statistics",
    "gradient_stiffness",
    "hessian_density",
    "hessian_diagonal",
    "hessian_operator",
    "hessian_top_eigenvalues",
    "hessian_trace",
    "influence",
    "influence_from_losses",
    "inverse_hessian_product",
    "llc",
    "load_losses",
    "load_records",
    "measure",
    "neural_collapse",
    "ntk",
    "numerical_rank",
    "participation_ratio",
    "probe_accuracy",
    "rankme",
    "singular_values",
    "stable_rank",
    "susceptibility",
    "susceptibility_from_losses",
    "two_nn",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'geomfast' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
