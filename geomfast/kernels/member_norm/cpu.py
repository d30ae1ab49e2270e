"""Backend "cpu": the C++ kernel of csrc/, threads over members.

`GEOMFAST_ISA` picks the instruction set, as for the spectra.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from geomfast.kernels.backends import native_module
from geomfast.kernels.member_norm.state import MemberNorm


def forward(norm: MemberNorm, out: Tensor) -> None:
    """As `geomfast.kernels.member_norm.op` says, of float32 on the CPU."""
    _run(norm, out, norm.bias.data_ptr(), (0, 0, 0), 0)


def backward(
    norm: MemberNorm, grad_output: Tensor, grad_x: Tensor, grad_gain: Tensor, grad_bias: Tensor
) -> None:
    """As `geomfast.kernels.member_norm.op` says, of float32 on the CPU."""
    addresses = grad_output.data_ptr(), grad_gain.data_ptr(), grad_bias.data_ptr()
    _run(norm, grad_x, 0, addresses, grad_gain.stride(0))


def _run(
    norm: MemberNorm, out: Tensor, bias: int, gradients: tuple[int, int, int], stride: int
) -> None:
    members, tokens, size = norm.x.shape
    native_module("_cpu").member_norm(
        x=norm.x.data_ptr(),
        gain=norm.gain.data_ptr(),
        bias=bias,
        into=gradients[0],
        statistics=norm.statistics.data_ptr(),
        out=out.data_ptr(),
        gain_gradient=gradients[1],
        bias_gradient=gradients[2],
        members=members,
        tokens=tokens,
        size=size,
        stride=norm.gain.stride(0),
        gradient_stride=stride,
        eps=norm.eps,
        threads=torch.get_num_threads(),
        isa=os.environ.get("GEOMFAST_ISA", ""),
    )
