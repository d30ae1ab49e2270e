"""Tangents and adjoints' tangents of a transformer's layers: what Hessian products are made of."""

from geomfast.kernels.tangents.op import OP, operations
from geomfast.kernels.tangents.primal import (
    Attention,
    AttentionTangent,
    Gelu,
    Norm,
    NormTangent,
    nbytes,
)

__all__ = [
    "OP",
    "Attention",
    "AttentionTangent",
    "Gelu",
    "Norm",
    "NormTangent",
    "nbytes",
    "operations",
]
