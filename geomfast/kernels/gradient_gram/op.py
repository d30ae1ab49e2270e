"""Gram matrix of the per-sample gradients of one matrix-shaped parameter: choice of the path."""

from __future__ import annotations

from torch import Tensor

from geomfast.kernels.backends import Candidate, choose
from geomfast.kernels.gradient_gram import plain, reference
from geomfast.kernels.gradient_gram.factors import Factors, stored

#: Bytes of temporaries at a time: what a processor's last cache holds, more or less.
CHUNK_BYTES = 16 << 20


def backend_for(x: Tensor) -> str:
    """Name of the backend that serves factors on x's device."""
    return choose(
        "gradient_gram",
        [Candidate("torch"), Candidate("reference", slower="for comparison only")],
    )


def prefers_ghost(uses: list[Factors]) -> bool:
    """The cost rule: T^2 (in + out) < in out (1 + 2 T / N), T the positions of all uses.

    Ghost products cost N^2 T^2 (in + out) multiply-adds, gradients N^2 in out for their Gram
    matrix and 2 N T in out to be made. A one-hot factor costs nothing in a ghost product.
    """
    samples = uses[0].right.shape[0]
    length = sum(use.length for use in uses)
    rows, columns = uses[0].rows, uses[0].right.shape[-1]
    dense_rows = 0 if all(use.one_hot for use in uses) else rows
    return length**2 * (columns + dense_rows) < rows * columns * (1 + 2 * length / samples)


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
    if backend_for(uses[0].right) == "reference":
        return reference.gram(uses, centered)
    gradients = stored(uses)
    if gradients is not None:
        if centered:
            gradients = plain.less_mean(gradients)
        return plain.gram_of_rows(gradients)
    if not centered and prefers_ghost(uses):
        return plain.ghost(uses, max_bytes)
    return plain.materialised(uses, max_bytes, centered)
