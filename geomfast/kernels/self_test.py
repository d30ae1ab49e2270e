"""Every kernel on every backend here, on small inputs, against its float64 reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from geomfast.kernels.spectra import op as spectra


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
    """Run the self-test of every kernel on every backend that serves CPU tensors here."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 40, 24, generator=generator)
    x[3] = x[3, :, :1] @ x[3, :1]  # rank one
    x[4] = 0.0
    expected = spectra.IMPLEMENTATIONS["reference"](x)
    results = []
    for backend in spectra.backends_serving(x):
        values = spectra.IMPLEMENTATIONS[backend](x)
        error = float((values - expected).abs().max() / expected.max())
        # Squaring halves the digits of singular values that are zero: sqrt(eps) remains.
        results.append(SelfTest("singular_values", backend, error, 1e-7, error <= 1e-7))
    return results
