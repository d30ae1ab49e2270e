"""Backend "torch": its own norm without gain and bias, and the formulas of the gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def forward(
    x: Tensor, gain: Tensor, bias: Tensor, out: Tensor, statistics: Tensor, eps: float
) -> None:
    """As `geomfast.kernels.member_norm.forward_on`."""
    normal, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
    torch.addcmul(bias[:, None], normal, gain[:, None], out=out)
    statistics[..., :1], statistics[..., 1:] = mean, rstd


def backward(
    grad_output: Tensor,
    x: Tensor,
    statistics: Tensor,
    gain: Tensor,
    out: Tensor,
    gain_gradient: Tensor,
    bias_gradient: Tensor,
) -> None:
    """As `geomfast.kernels.member_norm.backward_on`."""
    mean, rstd = statistics.split(1, -1)
    normal = (x - mean).mul_(rstd)
    along = grad_output * normal
    bias_gradient.copy_(grad_output.sum(1))
    gain_gradient.copy_(along.sum(1))
    # What remains of it without its mean, and without its part along the normed input.
    scaled = grad_output * gain[:, None]
    along *= gain[:, None]
    scaled -= scaled.mean(-1, keepdim=True)
    out += scaled.addcmul_(normal, along.mean(-1, keepdim=True), value=-1.0).mul_(rstd)
