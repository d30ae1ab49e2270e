"""Singular values and RankMe: signatures, checks and the table of backends.

Both are also operators of torch (`torch.ops.geomfast.singular_values`, `.rankme`), which is what
`torch.compile` sees; eager calls go straight through, since passing the dispatcher costs more than
a small spectrum.
"""

from typing import Any

import torch

from geomfast.kernels.checks import all_finite, not_finite_error
from geomfast.kernels.registry import Op, Placement
from geomfast.kernels.spectra import cpu, cuda, eager, reference, triton
from geomfast.kernels.spectra.entropy import exp_entropy

# Above this smaller side one matrix no longer fits the caches, and the blocked reduction behind
# torch's eigvalsh wins (measured: 1.1x behind at 2000, 1.2x ahead at 3000, one thread).
_LARGEST_SIDE_ON_CPU = 2000

# The bisection kernel keeps a tridiagonal matrix in shared memory; far above it lies the side at
# which a whole GPU is faster on one matrix than one cluster. Not yet measured on a GPU.
_LARGEST_SIDE_ON_CUDA = 2000


def _too_large_for_cuda(x: torch.Tensor) -> str:
    limit = _LARGEST_SIDE_ON_CUDA
    return f"supports a smaller side up to {limit}" if min(x.shape[-2:]) > limit else ""


def _too_large_for_cpu(x: torch.Tensor) -> str:
    return "torch is faster at this size" if min(x.shape[-2:]) > _LARGEST_SIDE_ON_CPU else ""


#: Modules with `singular_values`: (..., N, d) of any floating-point type, at least one entry.
OP = Op(
    "singular_values",
    {"cuda": cuda, "triton": triton, "cpu": cpu, "torch": eager, "reference": reference},
    refusals={"cuda": _too_large_for_cuda},
    slower={"cpu": _too_large_for_cpu},
)


def check(x: torch.Tensor, argument: str = "x") -> None:
    """Raises what the functions below raise for the type and shape of x."""
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"{argument} must be a floating-point tensor, not {kind}")
    if x.dim() < 2:
        raise ValueError(f"{argument} must have shape (..., N, d), not {tuple(x.shape)}")
    samples, width = x.shape[-2:]
    if samples < 1 or width < 1:
        raise ValueError(
            f"{argument} of shape {tuple(x.shape)} has N = {samples}, d = {width}; "
            "both must be 1 or more"
        )


def singular_values(x: torch.Tensor) -> torch.Tensor:
    """Singular values of each matrix of a batch.

    Args:
        x: (..., N, d) with N, d >= 1; float64, float32, bfloat16 or float16; any strides.

    Returns:
        (..., min(N, d)) float64 on x's device, descending. Not differentiable.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: too few dimensions, an empty matrix; NaN or infinity, except on the backend
            "cuda", which does not wait for the GPU: there such a matrix gives NaN.
        BackendError: the forced backend does not support the input.
    """
    check(x)
    if torch.compiler.is_compiling():
        return torch.ops.geomfast.singular_values(x.detach())
    return _singular_values(x.detach())


def gram_eigenvalues(gram: torch.Tensor) -> torch.Tensor:
    """Eigenvalues of one symmetric positive semi-definite matrix.

    On a GPU by the kernel "cuda" where it is available: torch's `eigvalsh` takes milliseconds for
    each of the small matrices that Gram matrices of gradients are.

    Args:
        gram: (n, n) float64, n >= 1, finite.

    Returns:
        (n,) float64 on gram's device, ascending. What should be zero may be a negative rounding
        error, except on the backend "cuda". Not differentiable.
    """
    if gram.is_cuda and OP.backend_for(gram) == "cuda":
        return cuda.gram_eigenvalues(gram)
    return torch.linalg.eigvalsh(gram)


def rankme(x: torch.Tensor, center: bool, eps: float) -> torch.Tensor:
    """RankMe of each matrix of a batch: exp of the entropy of p = values / sum + eps.

    Args:
        x: (..., N, d) as in `singular_values`.
        center: subtract the mean over N first, in float64.
        eps: added to every p, finite and >= 0.

    Returns:
        (...) float64 on x's device; 0 for a matrix of zeros. Not differentiable.

    Raises:
        As `singular_values`.
    """
    check(x)
    if torch.compiler.is_compiling():
        return torch.ops.geomfast.rankme(x.detach(), center, eps)
    return _rankme(x.detach(), center, eps)


def _singular_values(x: torch.Tensor) -> torch.Tensor:
    run = OP[OP.backend_for(x)].singular_values
    return _empty_values(x) if x.numel() == 0 else run(x)


def _rankme(x: torch.Tensor, center: bool, eps: float) -> torch.Tensor:
    backend = OP.backend_for(x)
    if x.numel() == 0:
        return _empty_rankme(x, center, eps)
    return rankme_on(backend, centered(x) if center else x, eps)


def centered(x: torch.Tensor) -> torch.Tensor:
    """x (..., N, d) less its mean over N, in float64.

    Raises:
        ValueError: NaN or infinity, except on the backend "cuda".
    """
    # The mean would spread a NaN over its column.
    if OP.backend_for(x) != "cuda" and not all_finite(x):
        raise not_finite_error(x)
    x = x.double()
    return x - x.mean(-2, keepdim=True)


def rankme_on(backend: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    """RankMe (...) of (..., N, d), at least one entry, by one backend."""
    if backend == "cuda":  # where the entropy is part of the last kernel
        return cuda.rankme(x, eps)
    return exp_entropy(OP[backend].singular_values(x), eps)


def _empty_values(x: torch.Tensor) -> torch.Tensor:
    side: Any = torch.sym_min(x.shape[-2], x.shape[-1])  # symbolic while torch.compile traces
    return x.new_empty((*x.shape[:-2], side), dtype=torch.float64)


def _empty_rankme(x: torch.Tensor, center: bool, eps: float) -> torch.Tensor:
    return x.new_empty(x.shape[:-2], dtype=torch.float64)


torch.library.define("geomfast::singular_values", "(Tensor x) -> Tensor")
torch.library.define("geomfast::rankme", "(Tensor x, bool center, float eps) -> Tensor")
for _name, _run, _fake in (
    ("geomfast::singular_values", _singular_values, _empty_values),
    ("geomfast::rankme", _rankme, _empty_rankme),
):
    torch.library.register_kernel(_name, ("cpu", "cuda"), _run)
    torch.library.register_fake(_name, _fake)


# Squaring halves the digits of singular values that are zero: sqrt(eps) remains.
@OP.self_test({"singular_values": 1e-7, "rankme": 2e-5})
def _self_test(backend: str, place: Placement) -> dict[str, torch.Tensor]:
    """Matrices of full rank, one of rank one, one of zeros."""
    x = torch.randn(9, 40, 24, generator=torch.Generator().manual_seed(0), device="cpu")
    x[3] = x[3, :, :1] @ x[3, :1]
    x[4] = 0.0
    x = place(x)
    return {
        "singular_values": OP[backend].singular_values(x),
        "rankme": rankme_on(backend, x, 0.0),
    }
