"""Tangents and adjoints' tangents of a transformer's layers: what Hessian products are made of."""

from geomfast.kernels.tangents.op import backend_for, backends_serving, operations
from geomfast.kernels.tangents.primal import (
    Attention,
    AttentionTangent,
    Gelu,
    Norm,
    NormTangent,
    nbytes,
)

__all__ = [
    "Attention",
    "AttentionTangent",
    "Gelu",
    "Norm",
    "NormTangent",
    "backend_for",
    "backends_serving",
    "nbytes",
    "operations",
]
