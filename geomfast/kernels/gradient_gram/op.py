"""Gram matrix of the per-sample gradients of one parameter, and the table of backends."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.gradient_gram import cpu, eager, reference, triton
from geomfast.kernels.gradient_gram.factors import Factors, stored
from geomfast.kernels.registry import Op, Placement

#: Bytes of temporaries at a time: what a processor's last cache holds, more or less.
CHUNK_BYTES = 16 << 20

#: Modules with `ghost`, `materialised` and `gram_of_rows`; the reference has `gram` alone.
OP = Op("gradient_gram", {"triton": triton, "cpu": cpu, "torch": eager, "reference": reference})

# What a GPU spends on materialised gradients besides their products, in the units of the cost rule:
# per sample, traffic through its cache and launches of every chunk. Predicted from the rates of an
# H100 (this folder's README); not yet measured on a GPU.
_GPU_OVERHEAD = 600
_GPU_PER_POSITION = 3.2


def prefers_ghost(uses: list[Factors]) -> bool:
    """The cost rule: T^2 (in + out) < in out (1 + 2 T / N), T the positions of all uses.

    Ghost products cost N^2 T^2 (in + out) multiply-adds, gradients N^2 in out for their Gram
    matrix and 2 N T in out to be made. A one-hot factor costs nothing in a ghost product.
    """
    samples = uses[0].right.shape[0]
    length = sum(use.length for use in uses)
    rows, columns = uses[0].rows, uses[0].right.shape[-1]
    dense_rows = 0 if all(use.one_hot for use in uses) else rows
    made = 2 * length
    if uses[0].right.is_cuda:
        made = _GPU_PER_POSITION * length + _GPU_OVERHEAD
    return length**2 * (columns + dense_rows) < rows * columns * (1 + made / samples)


def parameter_gram(
    uses: list[Factors], *, centered: bool = False, max_bytes: int = CHUNK_BYTES
) -> Tensor:
    """Gram matrix of the per-sample gradients of one parameter.

    Args:
        uses: every use of the parameter, N samples each; their gradients add.
        centered: of the gradients less their mean over the samples.
        max_bytes: for temporaries.

    Returns:
        (N, N) float64.
    """
    return gram_on(OP.backend_for(uses[0].right), uses, centered=centered, max_bytes=max_bytes)


def gram_on(
    backend: str,
    uses: list[Factors],
    *,
    centered: bool = False,
    max_bytes: int = CHUNK_BYTES,
    way: str = "",
) -> Tensor:
    """As `parameter_gram`, by one backend, and "ghost" or "materialised" where a way is given."""
    if backend == "reference":
        return reference.gram(uses, centered)
    implementation = OP[backend]
    if way == "ghost":
        return implementation.ghost(uses, max_bytes)
    if way == "materialised":
        return implementation.materialised(uses, max_bytes, centered)
    gradients = stored(uses)
    if gradients is not None:
        return implementation.gram_of_rows(eager.less_mean(gradients) if centered else gradients)
    if not centered and prefers_ghost(uses):
        return implementation.ghost(uses, max_bytes)
    if backend == "cpu" and _packing_dominates(uses):
        implementation = eager
    return implementation.materialised(uses, max_bytes, centered)


def _packing_dominates(uses: list[Factors]) -> bool:
    """Where torch makes gradients faster than the C++ kernel does: long samples, few parameters.

    Measured at N = 200: 1.1 to 1.3 times at T = 128, 0.8 at T = 64, for up to 512 x 128.
    """
    length = sum(use.length for use in uses)
    return length > 96 and uses[0].rows * uses[0].right.shape[-1] <= 65536


@OP.self_test({"gradient_gram ghost": 1e-5, "gradient_gram materialised": 1e-5})
def _self_test(backend: str, place: Placement) -> dict[str, Tensor]:
    """A parameter used twice, by a lookup and by a product, each way of computing."""
    generator = torch.Generator().manual_seed(0)
    left, right, other = place(torch.randn(3, 9, 5, 12, generator=generator, device="cpu"))
    rows = place(torch.randint(0, 12, (9, 5), generator=generator, device="cpu"))
    uses = [Factors(left, right, 12), Factors(rows, other, 12)]
    ways = ("ghost", "materialised")
    return {f"gradient_gram {way}": gram_on(backend, uses, way=way) for way in ways}
