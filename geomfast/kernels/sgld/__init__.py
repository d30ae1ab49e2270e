"""Steps of stochastic gradient Langevin dynamics, with noise that is a function of its place."""

from geomfast.kernels.sgld.op import (
    OP,
    Dynamics,
    RmsProp,
    normals,
    sgld_step,
    step_on,
)

__all__ = [
    "OP",
    "Dynamics",
    "RmsProp",
    "normals",
    "sgld_step",
    "step_on",
]
