"""LayerNorm of members' tokens: signatures, checks, and the table of backends."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.checks import check_fits, check_like
from geomfast.kernels.member_norm import cpu, eager, reference
from geomfast.kernels.member_norm.state import EPS, MemberNorm
from geomfast.kernels.registry import Op, Placement, float32_only

#: Modules with `forward(norm, out)`, which writes the statistics too, and with
#: `backward(norm, grad_output, grad_x, grad_gain, grad_bias)`, which adds to grad_x and writes the
#: other two: (C, d) of rows as far apart as each other's.
OP = Op(
    "member_norm",
    {"cpu": cpu, "torch": eager, "reference": reference},
    refusals={"cpu": float32_only},
)


@torch.no_grad()
def member_norm(
    x: Tensor, gain: Tensor, bias: Tensor, *, eps: float = EPS
) -> tuple[Tensor, MemberNorm]:
    """(x - mean) / sqrt(variance + eps) of every token, times its member's gain, plus its bias.

    Layer normalisation (Ba, Kiros and Hinton 2016, arXiv:1607.06450, equation 4). Nothing is
    recorded for autograd: see `member_norm_backward`.

    Args:
        x, gain, bias, eps: as of `MemberNorm`.

    Returns:
        (C, M, d), and what the backward pass needs.

    Raises:
        ValueError: shapes, types or places do not fit together.
        BackendError: the forced backend does not support the input.
    """
    _check(x, gain, bias)
    norm = MemberNorm(x, gain, bias, x.new_empty(*x.shape[:2], 2), eps)
    out = torch.empty_like(x)
    OP[OP.backend_for(x)].forward(norm, out)
    return out, norm


@torch.no_grad()
def member_norm_backward(norm: MemberNorm, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient of `member_norm`'s output to those of what it was given.

    Args:
        norm: what `member_norm` returned.
        grad_output: (C, M, d), contiguous.

    Returns:
        Gradients of x, (C, M, d), and of gain and bias, (C, d).

    Raises:
        ValueError: shapes, types or places do not fit together.
        BackendError: the forced backend does not support the input.
    """
    x = norm.x
    _check(x, norm.gain, norm.bias)
    check_fits("grad_output", grad_output, x.shape, x.dtype, x.device)
    check_fits("statistics", norm.statistics, (*x.shape[:2], 2), x.dtype, x.device)
    grad_gain, grad_bias = x.new_empty(2, len(x), x.shape[2])
    gradients = torch.zeros_like(x), grad_gain, grad_bias
    OP[OP.backend_for(x)].backward(norm, grad_output, *gradients)
    return gradients


def _check(x: Tensor, gain: Tensor, bias: Tensor) -> None:
    if x.dim() != 3 or not x.shape[2] or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x must be (C, M, d) float32 or float64, not {tuple(x.shape)} {x.dtype}")
    if not x.is_contiguous():
        raise ValueError("x must be contiguous")
    members, _, size = x.shape
    for name, of in (("gain", gain), ("bias", bias)):
        check_like(name, of, (members, size), x.dtype, x.device)
        if size > 1 and of.stride(1) != 1:
            raise ValueError(f"{name} must hold a member's numbers beside each other")
    if members > 1 and gain.stride(0) != bias.stride(0):
        raise ValueError("rows of gain and bias must lie as far apart")


@OP.self_test({"member_norm": 1e-6, "member_norm backward": 1e-5})
def _self_test(backend: str, place: Placement) -> dict[str, Tensor]:
    """Tokens that do not fill whole vectors, there and back."""
    generator = torch.Generator().manual_seed(0)
    x, grad_output = place(torch.randn(2, 3, 50, 20, generator=generator, device="cpu"))
    gain, bias = place(torch.randn(2, 3, 20, generator=generator, device="cpu"))
    norm, out = MemberNorm(x, gain, bias, x.new_empty(3, 50, 2)), torch.empty_like(x)
    OP[backend].forward(norm, out)
    gradients = torch.zeros_like(x), torch.empty_like(gain), torch.empty_like(gain)
    OP[backend].backward(norm, grad_output, *gradients)
    back = torch.cat([gradient.flatten() for gradient in gradients])
    return {"member_norm": out, "member_norm backward": back}
