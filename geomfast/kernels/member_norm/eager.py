"""Backend "torch": its own norm without gain and bias, and the formulas of the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.member_norm.state import MemberNorm


def forward(norm: MemberNorm, out: Tensor) -> None:
    """As `geomfast.kernels.member_norm.op` says."""
    normal, mean, rstd = torch.native_layer_norm(norm.x, norm.x.shape[-1:], None, None, norm.eps)
    torch.addcmul(norm.bias[:, None], normal, norm.gain[:, None], out=out)
    norm.statistics[..., :1], norm.statistics[..., 1:] = mean, rstd


def backward(
    norm: MemberNorm, grad_output: Tensor, grad_x: Tensor, grad_gain: Tensor, grad_bias: Tensor
) -> None:
    """As `geomfast.kernels.member_norm.op` says."""
    gain = norm.gain[:, None]
    mean, rstd = norm.statistics.split(1, -1)
    normal = (norm.x - mean).mul_(rstd)
    along = grad_output * normal
    grad_bias.copy_(grad_output.sum(1))
    grad_gain.copy_(along.sum(1))
    # What remains of it without its mean, and without its part along the normed input.
    scaled = grad_output * gain
    along *= gain
    scaled -= scaled.mean(-1, keepdim=True)
    grad_x += scaled.addcmul_(normal, along.mean(-1, keepdim=True), value=-1.0).mul_(rstd)
