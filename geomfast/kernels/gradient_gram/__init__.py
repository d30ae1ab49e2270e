"""Gram matrices of per-sample gradients from the factors they are made of."""

from geomfast.kernels.gradient_gram.factors import (
    Factors,
    first_entries,
    some_entries,
    split_rows,
    whole,
)
from geomfast.kernels.gradient_gram.norms import squared_norms
from geomfast.kernels.gradient_gram.op import (
    CHUNK_BYTES,
    OP,
    gram_on,
    parameter_gram,
)

__all__ = [
    "CHUNK_BYTES",
    "OP",
    "Factors",
    "first_entries",
    "gram_on",
    "parameter_gram",
    "some_entries",
    "split_rows",
    "squared_norms",
    "whole",
]
