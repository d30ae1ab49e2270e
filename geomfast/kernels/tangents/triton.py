"""Backend "triton": float32, each operation one kernel, or two on the way back through attention.

Supports CUDA tensors, and CPU tensors under Triton's interpreter (`TRITON_INTERPRET=1`, for tests).
What is too wide for a tile goes to the backend "torch".
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from geomfast.kernels.tangents import eager
from geomfast.kernels.tangents.primal import Attention, AttentionTangent, Gelu, Norm, NormTangent

#: Entries of a row that one program takes.
_LONGEST_ROW = 2048


def layer_norm_tangent(norm: Norm, x_dot: Tensor) -> NormTangent:
    from geomfast.kernels.tangents import row_kernels as kernels

    if x_dot.shape[-1] > _LONGEST_ROW:
        return eager.layer_norm_tangent(norm, x_dot)
    x_dot = x_dot.contiguous()
    probes, rows, width = x_dot.shape
    out = torch.empty_like(x_dot)
    along, against = x_dot.new_empty(2, probes, rows, 1)
    tile = kernels.tile_for(width)
    _launch(
        kernels.norm_tangent,
        (-(-rows // tile["ROWS"]), probes),
        (norm.normed, norm.rstd, norm.pulled, x_dot, out, along, against, rows, width),
        tile | kernels.OPTIONS,
    )
    return NormTangent(out, along, against)


def layer_norm_adjoint_tangent(
    norm: Norm, tangent: NormTangent, a_dot: Tensor, out: Tensor
) -> None:
    from geomfast.kernels.tangents import row_kernels as kernels

    if a_dot.shape[-1] > _LONGEST_ROW or not out.is_contiguous():
        return eager.layer_norm_adjoint_tangent(norm, tangent, a_dot, out)
    a_dot = a_dot.contiguous()
    probes, rows, width = a_dot.shape
    tile = kernels.tile_for(width)
    point = (norm.normed, norm.rstd, norm.pulled, norm.overlap)
    _launch(
        kernels.norm_adjoint_tangent,
        (-(-rows // tile["ROWS"]), probes),
        (*point, *tangent, a_dot, out, rows, width),
        tile | kernels.OPTIONS,
    )


def gelu_tangent(gelu: Gelu, h_dot: Tensor) -> Tensor:
    from geomfast.kernels.tangents import row_kernels as kernels

    h_dot = h_dot.contiguous()
    out, size = torch.empty_like(h_dot), gelu.slope.numel()
    _launch(
        kernels.gelu_tangent,
        (-(-size // kernels.BLOCK), len(h_dot)),
        (gelu.slope, h_dot, out, size),
        {"BLOCK": kernels.BLOCK} | kernels.OPTIONS,
    )
    return out


def gelu_adjoint_tangent(gelu: Gelu, h_dot: Tensor, y_bar_dot: Tensor) -> Tensor:
    from geomfast.kernels.tangents import row_kernels as kernels

    h_dot, y_bar_dot = h_dot.contiguous(), y_bar_dot.contiguous()
    out, size = torch.empty_like(h_dot), gelu.slope.numel()
    _launch(
        kernels.gelu_adjoint_tangent,
        (-(-size // kernels.BLOCK), len(h_dot)),
        (gelu.slope, gelu.curve, h_dot, y_bar_dot, out, size),
        {"BLOCK": kernels.BLOCK} | kernels.OPTIONS,
    )
    return out


def softmax_hessian_product(p: Tensor, weight: Tensor, z_dot: Tensor) -> Tensor:
    from geomfast.kernels.tangents import row_kernels as kernels

    probes, rows, width = z_dot.shape
    if width > _LONGEST_ROW:
        return eager.softmax_hessian_product(p, weight, z_dot)
    p, weight, z_dot = p.contiguous(), weight.contiguous(), z_dot.contiguous()
    out, tile = torch.empty_like(z_dot), kernels.tile_for(width)
    _launch(
        kernels.softmax_hessian_product,
        (-(-rows // tile["ROWS"]), probes),
        (p, weight, z_dot, out, rows, width),
        tile | kernels.OPTIONS,
    )
    return out


def attention_tangent(
    attention: Attention, q_dot: Tensor, kv_dot: Tensor
) -> tuple[Tensor, AttentionTangent]:
    from geomfast.kernels.tangents import attention_kernels as kernels

    a = attention
    (samples, heads, n_queries, width), n_keys = a.q.shape, a.k.shape[2]
    if width > kernels.WIDEST:
        return eager.attention_tangent(a, q_dot, kv_dot)
    q_dot, kv_dot = q_dot.contiguous(), kv_dot.contiguous()
    entries, o_dot = q_dot.new_empty(len(q_dot), *a.p.shape), torch.empty_like(q_dot)
    sums = entries.new_empty(entries.shape[:-1])
    tile = kernels.tile_for(width)
    point = (a.q, a.k, a.v, a.p, a.o.contiguous())
    sizes = (samples, heads, n_queries, n_keys, width)
    _launch(
        kernels.attention_tangent,
        (len(q_dot) * samples * heads, -(-n_queries // kernels.ROWS)),
        (*point, q_dot, kv_dot, entries, sums, o_dot, *sizes),
        tile | kernels.OPTIONS,
    )
    return o_dot, (q_dot, kv_dot, entries, sums)


def attention_adjoint_tangent(
    attention: Attention, tangent: AttentionTangent, o_bar_dot: Tensor
) -> tuple[Tensor, Tensor]:
    from geomfast.kernels.tangents import attention_kernels as kernels

    a = attention
    (samples, heads, n_queries, width), n_keys = a.q.shape, a.k.shape[2]
    if width > kernels.WIDEST:
        return eager.attention_adjoint_tangent(a, tangent, o_bar_dot)
    q_dot, kv_dot, entries, sums = tangent
    o_bar_dot = o_bar_dot.contiguous()
    entries_bar, sums_bar = torch.empty_like(entries), torch.empty_like(sums)
    q_bar_dot, kv_bar_dot = torch.empty_like(q_dot), torch.empty_like(kv_dot)
    sizes, programs = (samples, heads, n_queries, n_keys, width), len(q_dot) * samples * heads
    tile = kernels.tile_for(width)
    point = (a.k, a.v, a.p, a.o_bar, a.s_bar, a.centered)
    _launch(
        kernels.queries_adjoint_tangent,
        (programs, -(-n_queries // kernels.ROWS)),
        (*point, kv_dot, entries, sums, o_bar_dot, entries_bar, sums_bar, q_bar_dot, *sizes),
        tile | kernels.OPTIONS,
    )
    point = (a.q, a.p, a.o_bar, a.s_bar)
    dots = (q_dot, entries, sums, o_bar_dot, entries_bar, sums_bar)
    _launch(
        kernels.keys_adjoint_tangent,
        (programs, -(-n_keys // kernels.ROWS)),
        (*point, *dots, kv_bar_dot, *sizes),
        tile | kernels.OPTIONS,
    )
    return q_bar_dot, kv_bar_dot


def _launch(kernel: Any, grid: tuple[int, int], arguments: tuple, constants: dict) -> None:
    if 0 in grid:
        return
    first: Tensor = arguments[0]
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device(first.device) if first.is_cuda else contextlib.nullcontext():
        kernel[grid](*arguments, **constants)
