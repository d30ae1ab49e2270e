"""Singular values and RankMe of batches of matrices."""

from geomfast.kernels.spectra.entropy import exp_entropy
from geomfast.kernels.spectra.op import (
    OP,
    centered,
    check,
    gram_eigenvalues,
    rankme,
    singular_values,
)

__all__ = [
    "OP",
    "centered",
    "check",
    "exp_entropy",
    "gram_eigenvalues",
    "rankme",
    "singular_values",
]
