"""Causal attention inside each of many short rows, of many members at once, and its gradient."""

from geomfast.kernels.row_attention.op import OP, row_attention, row_attention_backward

__all__ = ["OP", "row_attention", "row_attention_backward"]
