"""Every kernel on every backend here, on small inputs, against its float64 reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from geomfast.kernels import gradient_gram
from geomfast.kernels.gradient_gram import Factors
from geomfast.kernels.gradient_gram import reference as gradient_gram_reference
from geomfast.kernels.spectra import op as spectra
from geomfast.kernels.spectra.entropy import exp_entropy


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
    """Run the self-test of every kernel on every backend that serves here, on CPU and GPU."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 40, 24, generator=generator)
    x[3] = x[3, :, :1] @ x[3, :1]  # rank one
    x[4] = 0.0
    values = spectra.IMPLEMENTATIONS["reference"](x)
    ranks = exp_entropy(values, 0.0)
    results = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        y = x.to(device)
        for backend in spectra.backends_serving(y):
            where = backend if device == "cpu" else f"{backend} on {device}"
            # Squaring halves the digits of singular values that are zero: sqrt(eps) remains.
            found = spectra.IMPLEMENTATIONS[backend](y).cpu()
            results.append(_compared("singular_values", where, found, values, 1e-7))
            found = spectra.rankme_on(backend, y, 0.0).cpu()
            results.append(_compared("rankme", where, found, ranks, 2e-5))
        results += _gradient_gram(device, generator)
    return results


def _gradient_gram(device: str, generator: torch.Generator) -> list[SelfTest]:
    """A parameter used twice, by a lookup and by a product, each way of computing."""
    left, right, other = (torch.randn(9, 5, 12, generator=generator).to(device) for _ in range(3))
    rows = torch.randint(0, 12, (9, 5), generator=generator).to(device)
    uses = [Factors(left, right, 12), Factors(rows, other, 12)]
    expected = gradient_gram_reference.gram(uses, centered=False).cpu()
    results = []
    for backend in gradient_gram.backends_serving(right):
        where = backend if device == "cpu" else f"{backend} on {device}"
        for way in ("ghost", "materialised") if backend != "reference" else ("",):
            found = gradient_gram.gram_on(backend, uses, way=way).cpu()
            name = f"gradient_gram {way}".rstrip()
            results.append(_compared(name, where, found, expected, 1e-5))
    return results


def _compared(
    kernel: str, backend: str, found: torch.Tensor, expected: torch.Tensor, allowed: float
) -> SelfTest:
    error = float((found - expected).abs().max() / expected.max())
    return SelfTest(kernel, backend, error, allowed, error <= allowed)
