"""Gram matrices of per-sample gradients from the factors they are made of."""

from geomfast.kernels.gradient_gram.factors import Factors, block, combination
from geomfast.kernels.gradient_gram.op import CHUNK_BYTES, backend_for, parameter_gram
from geomfast.kernels.gradient_gram.plain import gram_of_rows

__all__ = [
    "CHUNK_BYTES",
    "Factors",
    "backend_for",
    "block",
    "combination",
    "gram_of_rows",
    "parameter_gram",
]
