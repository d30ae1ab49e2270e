"""Steps of stochastic gradient Langevin dynamics, with noise that is a function of its place."""

from geomfast.kernels.sgld.op import (
    Dynamics,
    RmsProp,
    backend_for,
    backends_serving,
    normals,
    sgld_step,
    step_on,
)

__all__ = [
    "Dynamics",
    "RmsProp",
    "backend_for",
    "backends_serving",
    "normals",
    "sgld_step",
    "step_on",
]
