"""Causal attention inside each of many short rows, of many members at once, and its gradient."""

from geomfast.kernels.row_attention.op import (
    backend_for,
    backends_serving,
    row_attention,
    row_attention_backward,
    run_on,
)

__all__ = [
    "backend_for",
    "backends_serving",
    "row_attention",
    "row_attention_backward",
    "run_on",
]
