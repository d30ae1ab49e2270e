"""LayerNorm of many members' tokens, each member with its own gain and bias, and its gradient."""

from geomfast.kernels.member_norm.op import OP, member_norm, member_norm_backward
from geomfast.kernels.member_norm.state import MemberNorm

__all__ = ["OP", "MemberNorm", "member_norm", "member_norm_backward"]
