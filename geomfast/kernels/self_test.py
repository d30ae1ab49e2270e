"""Every kernel on every backend of this machine, on small inputs, against its float64 reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geomfast.kernels.registry import Placement, ops


@dataclass(frozen=True)
class SelfTest:
    """Outcome of one kernel on one backend.

    Attributes:
        kernel: name of the operation.
        backend: name of the backend.
        error: largest error relative to the largest reference value.
        allowed: the kernel's stated tolerance.
        passed: whether the error is within it.
    """

    kernel: str
    backend: str
    error: float
    allowed: float
    passed: bool


def self_test() -> list[SelfTest]:
    """Run the self-test of every operation on every available backend, on CPU and GPU."""
    results = []
    for op in ops():
        exact = op.run_self_test("reference", _placement("cpu", torch.float64))
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            place = _placement(device, torch.float32)
            for backend in op.available_backends(place(torch.empty(1, 1, device="cpu"))):
                where = backend if device == "cpu" else f"{backend} on {device}"
                found = op.run_self_test(backend, place)
                for name, allowed in op.tolerances.items():
                    results.append(_compared(name, where, found[name], exact[name], allowed))
    return results


def _placement(device: str, dtype: torch.dtype) -> Placement:
    def place(x: Tensor) -> Tensor:
        return x.to(device, dtype if x.is_floating_point() else x.dtype, copy=True)

    return place


def _compared(
    kernel: str, backend: str, found: Tensor, expected: Tensor, allowed: float
) -> SelfTest:
    error = float((found.cpu() - expected).abs().max() / expected.abs().max())
    return SelfTest(kernel, backend, error, allowed, error <= allowed)
