"""Steps of stochastic gradient Langevin dynamics, with noise that is a function of its place."""

from geomfast.kernels.sgld.dynamics import Dynamics, LangevinState
from geomfast.kernels.sgld.op import OP, normals, sgld_step

__all__ = ["OP", "Dynamics", "LangevinState", "normals", "sgld_step"]
