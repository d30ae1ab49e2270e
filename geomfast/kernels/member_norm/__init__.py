"""LayerNorm of many members' tokens, each member with its own gain and bias, and its gradient."""

from geomfast.kernels.member_norm.op import (
    OP,
    backward_on,
    forward_on,
    member_norm,
    member_norm_backward,
)

__all__ = [
    "OP",
    "backward_on",
    "forward_on",
    "member_norm",
    "member_norm_backward",
]
