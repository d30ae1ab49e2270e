"""Singular values: signature, checks and the table of who serves."""

import torch

from geomfast.kernels.backends import Candidate, choose, missing_reason
from geomfast.kernels.spectra import cpu, plain, reference

# Backend -> function (..., N, d) float32 or float64, at least one entry -> singular values.
IMPLEMENTATIONS = {
    "cpu": cpu.singular_values,
    "torch": plain.singular_values,
    "reference": reference.singular_values,
}


# Above this smaller side one matrix no longer fits the caches, and the blocked reduction behind
# torch's eigvalsh wins (measured: 1.1x behind at 2000, 1.2x ahead at 3000, one thread).
_LARGEST_SIDE_ON_CPU = 2000


def _candidates(x: torch.Tensor) -> list[Candidate]:
    """Who serves x, best first; the measurements behind it are in this folder's README."""
    if x.device.type != "cpu":
        native = Candidate("cpu", f"serves tensors on the cpu, x is on {x.device}")
    else:
        missing = missing_reason("_cpu")
        side = min(x.shape[-2:])
        slower = "torch is faster at this size" if side > _LARGEST_SIDE_ON_CPU else ""
        native = Candidate("cpu", missing, missing=bool(missing), slower=slower)
    return [
        native,
        Candidate("torch"),
        Candidate("reference", slower="for comparison only"),
    ]


def backend_for(x: torch.Tensor) -> str:
    """Name of the backend that `singular_values(x)` runs on; records store it."""
    return choose("singular_values", _candidates(x))


def backends_serving(x: torch.Tensor) -> list[str]:
    """Names of all backends that can serve x here, best first."""
    return [candidate.name for candidate in _candidates(x) if not candidate.refusal]


def check(x: torch.Tensor) -> None:
    """Raises what `singular_values` raises for the type and shape of x."""
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor, not {kind}")
    if x.dim() < 2:
        raise ValueError(f"x must have shape (..., N, d), not {tuple(x.shape)}")
    samples, width = x.shape[-2:]
    if samples < 1 or width < 1:
        raise ValueError(
            f"x of shape {tuple(x.shape)} has N = {samples}, d = {width}; both must be 1 or more"
        )


def singular_values(x: torch.Tensor) -> torch.Tensor:
    """Singular values of each matrix of a batch.

    Args:
        x: (..., N, d) with N, d >= 1; float64, float32, bfloat16 or float16; any strides.

    Returns:
        (..., min(N, d)) float64 on x's device, descending. Not differentiable.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: too few dimensions, an empty matrix, NaN or infinity.
        BackendError: the forced backend cannot serve.
    """
    check(x)
    run = IMPLEMENTATIONS[backend_for(x)]
    x = x.detach()
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()  # exact
    if x.numel() == 0:
        return x.new_empty((*x.shape[:-2], min(x.shape[-2:])), dtype=torch.float64)
    return run(x)
