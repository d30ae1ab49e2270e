"""Backend "reference": float64, the formula as written, gradients by autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def forward(
    x: Tensor, gain: Tensor, bias: Tensor, out: Tensor, statistics: Tensor, eps: float
) -> None:
    """As `geomfast.kernels.member_norm.forward_on`."""
    mean, variance = _moments(x.double())
    rstd = (variance + eps).rsqrt()
    out.copy_((x.double() - mean) * rstd * gain.double()[:, None] + bias.double()[:, None])
    statistics.copy_(torch.cat([mean, rstd], -1))


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
    given = [leaf.double().detach().requires_grad_() for leaf in (x, gain, torch.zeros_like(gain))]
    # What was added to the variance is what the reciprocal deviation has beyond it.
    eps = statistics[..., 1:].double() ** -2 - _moments(x.double())[1]
    with torch.enable_grad():
        of, gains, biases = given
        mean, variance = _moments(of)
        normed = (of - mean) * (variance + eps).rsqrt() * gains[:, None] + biases[:, None]
        found = torch.autograd.grad(normed, given, grad_output.double())
    out += found[0].to(out.dtype)
    gain_gradient.copy_(found[1])
    bias_gradient.copy_(found[2])


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(-1, keepdim=True)
    return mean, (x - mean).square().mean(-1, keepdim=True)
