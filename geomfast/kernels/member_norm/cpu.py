"""Backend "cpu": the C++ kernel of csrc/, threads over members.

`GEOMFAST_ISA` picks the instruction set, as for the spectra.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from geomfast.kernels.backends import native_module


def forward(
    x: Tensor, gain: Tensor, bias: Tensor, out: Tensor, statistics: Tensor, eps: float
) -> None:
    """As `geomfast.kernels.member_norm.forward_on`, of float32 on the CPU."""
    _run(x, gain, statistics, out, {"bias": bias}, eps=eps)


def backward(
    grad_output: Tensor,
    x: Tensor,
    statistics: Tensor,
    gain: Tensor,
    out: Tensor,
    gain_gradient: Tensor,
    bias_gradient: Tensor,
) -> None:
    """As `geomfast.kernels.member_norm.backward_on`, of float32 on the CPU."""
    others = {"into": grad_output, "gain_gradient": gain_gradient, "bias_gradient": bias_gradient}
    _run(x, gain, statistics, out, others, gradient_stride=gain_gradient.stride(0))


def _run(
    x: Tensor,
    gain: Tensor,
    statistics: Tensor,
    out: Tensor,
    others: dict[str, Tensor],
    gradient_stride: int = 0,
    eps: float = 0.0,
) -> None:
    members, tokens, size = x.shape
    absent = dict.fromkeys(("bias", "into", "gain_gradient", "bias_gradient"), 0)
    native_module("_cpu").member_norm(
        x=x.data_ptr(),
        gain=gain.data_ptr(),
        statistics=statistics.data_ptr(),
        out=out.data_ptr(),
        **(absent | {name: other.data_ptr() for name, other in others.items()}),
        members=members,
        tokens=tokens,
        size=size,
        stride=gain.stride(0),
        gradient_stride=gradient_stride,
        eps=eps,
        threads=torch.get_num_threads(),
        isa=os.environ.get("GEOMFAST_ISA", ""),
    )
