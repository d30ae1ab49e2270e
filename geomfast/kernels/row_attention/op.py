"""Attention inside short rows: signatures, checks, and the table of backends."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.checks import check_like
from geomfast.kernels.registry import Op, Placement, float32_only
from geomfast.kernels.row_attention import cpu, eager, reference

#: Modules with `run(qkv, offsets, heads, out, grad_output=None, slopes=None)`: as `row_attention`
#: into out, or with grad_output its backward pass; all contiguous.
OP = Op(
    "row_attention",
    {"cpu": cpu, "torch": eager, "reference": reference},
    refusals={"cpu": float32_only},
)


@torch.no_grad()
def row_attention(qkv: Tensor, offsets: Tensor, heads: int, slopes: Tensor | None = None) -> Tensor:
    """Every token's mix of the values of its row's tokens up to itself.

    softmax(Q K' / sqrt(width)) V for every head, with -infinity above the diagonal (Vaswani et al.
    2017, arXiv:1706.03762, equation 1). With slopes, a score loses its head's slope for every token
    between query and key (Press et al. 2021, arXiv:2108.12409). Nothing is recorded for autograd:
    see `row_attention_backward`. Rows are meant to be short: the C++ kernel works in memory of a
    row's length squared for every thread.

    Args:
        qkv: (C, R, 3 d) float32 or float64: queries, keys and values of C members' R tokens.
        offsets: (N + 1,) int64 on the CPU: the first token of each of N rows, then R. The same
            rows for all members.
        heads: that divide d.
        slopes: (heads,) of qkv's type and in its place, none of which gets a gradient.

    Returns:
        (C, R, d).

    Raises:
        ValueError: shapes, types or places do not fit together, or offsets fall.
        BackendError: the forced backend does not support the input.
    """
    slopes = _checked(qkv, offsets, heads, slopes)
    out = qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
    OP[OP.backend_for(qkv)].run(qkv, offsets, heads, out, None, slopes)
    return out


@torch.no_grad()
def row_attention_backward(
    grad_output: Tensor,
    qkv: Tensor,
    offsets: Tensor,
    heads: int,
    slopes: Tensor | None = None,
) -> Tensor:
    """From the gradient of `row_attention` to that of ``qkv``.

    Args:
        grad_output: (C, R, d), of qkv's type and in its place.
        qkv, offsets, heads, slopes: what `row_attention` was given.

    Returns:
        (C, R, 3 d).

    Raises:
        ValueError: shapes, types or places do not fit together, or offsets fall.
        BackendError: the forced backend does not support the input.
    """
    slopes = _checked(qkv, offsets, heads, slopes)
    expected = (*qkv.shape[:2], qkv.shape[2] // 3)
    check_like("grad_output", grad_output, expected, qkv.dtype, qkv.device)
    out = torch.empty_like(qkv)
    OP[OP.backend_for(qkv)].run(qkv, offsets, heads, out, grad_output.contiguous(), slopes)
    return out


def _checked(qkv: Tensor, offsets: Tensor, heads: int, slopes: Tensor | None) -> Tensor | None:
    """The slopes as backends take them, if all fits together."""
    if qkv.dim() != 3 or qkv.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"qkv must be (C, R, 3 d) float32 or float64, not {tuple(qkv.shape)} {qkv.dtype}"
        )
    if not qkv.is_contiguous():
        raise ValueError("qkv must be contiguous")
    if heads < 1 or not qkv.shape[2] or qkv.shape[2] % (3 * heads):
        raise ValueError(f"{heads} heads do not divide the d of {qkv.shape[2]} = 3 d numbers")
    if offsets.dim() != 1 or offsets.dtype != torch.int64 or offsets.device.type != "cpu":
        raise ValueError(
            f"offsets must be (N + 1,) int64 on the cpu, not {tuple(offsets.shape)} "
            f"{offsets.dtype} on {offsets.device}"
        )
    if not offsets.is_contiguous():
        raise ValueError("offsets must be contiguous")
    at = offsets.tolist()
    if not at or at[0] or at[-1] != qkv.shape[1] or at != sorted(at):
        raise ValueError(f"offsets must rise from 0 to R = {qkv.shape[1]}, not {at}")
    if slopes is None:
        return None
    check_like("slopes", slopes, (heads,), qkv.dtype, qkv.device)
    return slopes.contiguous()


@OP.self_test(
    {
        "row_attention": 1e-6,
        "row_attention backward": 1e-5,
        "row_attention with slopes": 1e-6,
        "row_attention with slopes backward": 1e-5,
    }
)
def _self_test(backend: str, place: Placement) -> dict[str, Tensor]:
    """Rows on both sides of a vector's length, there and back."""
    generator = torch.Generator().manual_seed(0)
    offsets, heads, width = torch.tensor([0, 3, 18, 35], device="cpu"), 2, 12
    qkv = place(torch.randn(2, 35, 3 * heads * width, generator=generator, device="cpu"))
    grad_output = place(torch.randn(2, 35, heads * width, generator=generator, device="cpu"))
    found = {}
    for name, slopes in (("", None), (" with slopes", torch.tensor([0.5, 0.0625], device="cpu"))):
        mixed, gradient = torch.empty_like(grad_output), torch.empty_like(qkv)
        given = None if slopes is None else place(slopes)
        OP[backend].run(qkv, offsets, heads, mixed, None, given)
        OP[backend].run(qkv, offsets, heads, gradient, grad_output, given)
        found |= {f"row_attention{name}": mixed, f"row_attention{name} backward": gradient}
    return found
