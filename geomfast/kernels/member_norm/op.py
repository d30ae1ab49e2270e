"""LayerNorm of members' tokens: signatures, checks, and the table of backends."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.member_norm import cpu, eager, reference
from geomfast.kernels.registry import Op, Placement, float32_only

__all__ = [
    "EPS",
    "OP",
    "backward_on",
    "forward_on",
    "member_norm",
    "member_norm_backward",
]

#: Added to the variance, as in torch's LayerNorm.
EPS = 1e-5

#: Modules with `forward` and `backward`.
OP = Op(
    "member_norm",
    {"cpu": cpu, "torch": eager, "reference": reference},
    refusals={"cpu": float32_only},
)


@torch.no_grad()
def member_norm(
    x: Tensor, gain: Tensor, bias: Tensor, *, eps: float = EPS
) -> tuple[Tensor, Tensor]:
    """(x - mean) / sqrt(variance + eps) of every token, times its member's gain, plus its bias.

    Layer normalisation (Ba, Kiros and Hinton 2016, arXiv:1607.06450, equation 4). Nothing is
    recorded for autograd: see `member_norm_backward`.

    Args:
        x: (C, M, d) float32 or float64, contiguous: C members' tokens.
        gain, bias: (C, d), numbers of a member beside each other, rows of both as far apart.
        eps: added to the variance.

    Returns:
        (C, M, d), and (C, M, 2) mean and reciprocal deviation for the backward pass.

    Raises:
        ValueError: shapes, types or places do not fit together.
        BackendError: the forced backend does not support the input.
    """
    _check(x, gain=gain, bias=bias)
    out, statistics = torch.empty_like(x), x.new_empty(*x.shape[:2], 2)
    forward_on(OP.backend_for(x), x, gain, bias, out, statistics, eps)
    return out, statistics


@torch.no_grad()
def member_norm_backward(
    grad_output: Tensor, x: Tensor, statistics: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient of `member_norm`'s output to those of what it was given.

    Args:
        grad_output: (C, M, d), contiguous.
        x, gain: what `member_norm` was given.
        statistics: what it returned.

    Returns:
        Gradients of x, (C, M, d), and of gain and bias, (C, d).

    Raises:
        ValueError: shapes, types or places do not fit together.
        BackendError: the forced backend does not support the input.
    """
    _check(x, gain=gain)
    for name, given, shape in (
        ("grad_output", grad_output, x.shape),
        ("statistics", statistics, (*x.shape[:2], 2)),
    ):
        if given.shape != shape or given.dtype != x.dtype or given.device != x.device:
            raise ValueError(
                f"{name} must be {tuple(shape)} {x.dtype} on {x.device}, not "
                f"{tuple(given.shape)} {given.dtype} on {given.device}"
            )
        if not given.is_contiguous():
            raise ValueError(f"{name} must be contiguous")
    out, of_gain, of_bias = torch.zeros_like(x), *x.new_empty(2, len(x), x.shape[2])
    backward_on(OP.backend_for(x), grad_output, x, statistics, gain, out, of_gain, of_bias)
    return out, of_gain, of_bias


def forward_on(
    backend: str,
    x: Tensor,
    gain: Tensor,
    bias: Tensor,
    out: Tensor,
    statistics: Tensor,
    eps: float = EPS,
) -> None:
    """As `member_norm` into ``out`` and ``statistics``, by one backend, of input that fits."""
    OP[backend].forward(x, gain, bias, out, statistics, eps)


def backward_on(
    backend: str,
    grad_output: Tensor,
    x: Tensor,
    statistics: Tensor,
    gain: Tensor,
    out: Tensor,
    gain_gradient: Tensor,
    bias_gradient: Tensor,
) -> None:
    """As `member_norm_backward`, by one backend, of input that fits.

    The gradient of x is added to ``out``; the others, (C, d) of rows as far apart as each other's,
    are written.
    """
    OP[backend].backward(grad_output, x, statistics, gain, out, gain_gradient, bias_gradient)


def _check(x: Tensor, **given: Tensor) -> None:
    if x.dim() != 3 or not x.shape[2] or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x must be (C, M, d) float32 or float64, not {tuple(x.shape)} {x.dtype}")
    if not x.is_contiguous():
        raise ValueError("x must be contiguous")
    expected = (x.shape[0], x.shape[2])
    for name, of in given.items():
        if of.shape != expected or of.dtype != x.dtype or of.device != x.device:
            raise ValueError(
                f"{name} must be {expected} {x.dtype} on {x.device}, not "
                f"{tuple(of.shape)} {of.dtype} on {of.device}"
            )
        if expected[1] > 1 and of.stride(1) != 1:
            raise ValueError(f"{name} must hold a member's numbers beside each other")
    if expected[0] > 1 and len({of.stride(0) for of in given.values()}) > 1:
        raise ValueError("rows of gain and bias must lie as far apart")


@OP.self_test({"member_norm": 1e-6, "member_norm backward": 1e-5})
def _self_test(backend: str, place: Placement) -> dict[str, Tensor]:
    """Tokens that do not fill whole vectors, there and back."""
    generator = torch.Generator().manual_seed(0)
    x, grad_output = place(torch.randn(2, 3, 50, 20, generator=generator, device="cpu"))
    gain, bias = place(torch.randn(2, 3, 20, generator=generator, device="cpu"))
    out, statistics = torch.empty_like(x), x.new_empty(3, 50, 2)
    forward_on(backend, x, gain, bias, out, statistics)
    gradients = torch.zeros_like(x), torch.empty_like(gain), torch.empty_like(gain)
    backward_on(backend, grad_output, x, statistics, gain, *gradients)
    back = torch.cat([gradient.flatten() for gradient in gradients])
    return {"member_norm": out, "member_norm backward": back}
