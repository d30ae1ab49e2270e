"""Backend "reference": float64, the formula as written, gradients by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.member_norm.state import MemberNorm


def forward(norm: MemberNorm, out: Tensor) -> None:
    """As `geomfast.kernels.member_norm.op` says."""
    x, gain, bias = norm.x.double(), norm.gain.double(), norm.bias.double()
    mean, variance = _moments(x)
    rstd = (variance + norm.eps).rsqrt()
    out.copy_((x - mean) * rstd * gain[:, None] + bias[:, None])
    norm.statistics.copy_(torch.cat([mean, rstd], -1))


def backward(
    norm: MemberNorm, grad_output: Tensor, grad_x: Tensor, grad_gain: Tensor, grad_bias: Tensor
) -> None:
    """As `geomfast.kernels.member_norm.op` says."""
    x, gain = norm.x, norm.gain
    given = [leaf.double().detach().requires_grad_() for leaf in (x, gain, torch.zeros_like(gain))]
    with torch.enable_grad():
        of, gains, biases = given
        mean, variance = _moments(of)
        normed = (of - mean) * (variance + norm.eps).rsqrt() * gains[:, None] + biases[:, None]
        found = torch.autograd.grad(normed, given, grad_output.double())
    grad_x += found[0].to(grad_x.dtype)
    grad_gain.copy_(found[1])
    grad_bias.copy_(found[2])


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(-1, keepdim=True)
    return mean, (x - mean).square().mean(-1, keepdim=True)
