"""Tangents of a transformer's layers: the operations, and the table of who serves.

Each operation exists twice: the way there takes tangents of a layer's input to those of its output;
the way back takes the tangent of the output's adjoint to that of the input's. `reference` states
what each takes and returns. Nothing here is differentiable.
"""

from types import ModuleType

from torch import Tensor

from geomfast.kernels.backends import Candidate, choose, interpreting_triton, triton_missing
from geomfast.kernels.tangents import plain, reference, triton

#: Backend -> module with the operations.
IMPLEMENTATIONS: dict[str, ModuleType] = {
    "triton": triton,
    "torch": plain,
    "reference": reference,
}


def _candidates(x: Tensor) -> list[Candidate]:
    """Who serves tensors like x, best first."""
    if x.device.type == "cuda":
        missing = triton_missing()
        in_triton = Candidate("triton", missing or triton.refusal(x), missing=bool(missing))
    elif x.device.type == "cpu" and interpreting_triton():
        slower = "the interpreter is for tests"
        in_triton = Candidate("triton", triton.refusal(x), slower=slower)
    else:
        in_triton = Candidate("triton", f"serves tensors on the cuda device, x is on {x.device}")
    return [in_triton, Candidate("torch"), Candidate("reference", slower="for comparison only")]


def backend_for(x: Tensor) -> str:
    """Name of the backend that serves tangents of x's type and device."""
    return choose("tangents", _candidates(x))


def operations(x: Tensor) -> ModuleType:
    """The module that serves, chosen once for all layers."""
    return IMPLEMENTATIONS[backend_for(x)]
