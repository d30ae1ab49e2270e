"""Tangents of a transformer's layers: the operations, and the table of who serves.

Each operation exists twice: the way there takes tangents of a layer's input to those of its output;
the way back takes the tangent of the output's adjoint to that of the input's. `reference` states
what each takes and returns. Nothing here is differentiable.
"""

import dataclasses
from types import ModuleType

from torch import Tensor

from geomfast.kernels.backends import Candidate, choose, triton_candidate
from geomfast.kernels.tangents import eager, reference, triton

#: Backend -> module with the operations.
IMPLEMENTATIONS: dict[str, ModuleType] = {
    "triton": triton,
    "torch": eager,
    "reference": reference,
}


def _candidates(x: Tensor) -> list[Candidate]:
    """Who serves tensors like x, best first."""
    in_triton = triton_candidate(x.device)
    if not in_triton.refusal:
        in_triton = dataclasses.replace(in_triton, refusal=triton.refusal(x))
    return [in_triton, Candidate("torch"), Candidate("reference", slower="for comparison only")]


def backend_for(x: Tensor) -> str:
    """Name of the backend that serves tangents of x's type and device."""
    return choose("tangents", _candidates(x))


def backends_serving(x: Tensor) -> list[str]:
    """Names of all backends that can serve tangents of x's type and device, best first."""
    return [candidate.name for candidate in _candidates(x) if not candidate.refusal]


def operations(x: Tensor) -> ModuleType:
    """The module that serves, chosen once for all layers."""
    return IMPLEMENTATIONS[backend_for(x)]
