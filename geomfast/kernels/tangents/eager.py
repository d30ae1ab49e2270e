"""Backend "torch": in few passes over memory, by aten's fused operators where there are any."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.tangents.primal import Attention, AttentionTangent, Gelu, Norm, NormTangent


def layer_norm_tangent(norm: Norm, x_dot: Tensor) -> NormTangent:
    along = (norm.normed * x_dot).mean(-1, keepdim=True)
    against = (norm.pulled * x_dot).mean(-1, keepdim=True)
    return NormTangent(_project(norm, x_dot).mul_(norm.rstd), along, against)


def layer_norm_adjoint_tangent(norm: Norm, tangent: NormTangent, a_dot: Tensor, out: Tensor):
    total = _project(norm, a_dot)
    total.addcmul_(norm.normed, tangent.against, value=-1)
    total.addcmul_(norm.pulled, tangent.along, value=-1)
    total.addcmul_(tangent.normed, norm.overlap, value=-1)
    out.addcmul_(total, norm.rstd)


def _project(norm: Norm, x: Tensor) -> Tensor:
    """(k, M, d), x without its part along the vector of ones and along each normed row."""
    width = norm.normed.shape[-1]
    rows = x.reshape(-1, width)
    normed = norm.normed if x.shape[0] == 1 else norm.normed.repeat(x.shape[0], 1)
    # The backward pass of a LayerNorm whose input has mean 0 and deviation 1 already.
    mean = normed.new_zeros(rows.shape[0], 1)
    projected, _, _ = torch.ops.aten.native_layer_norm_backward(
        rows, normed, [width], mean, mean + 1, None, None, [True, False, False]
    )
    return projected.view_as(x)


def gelu_tangent(gelu: Gelu, h_dot: Tensor) -> Tensor:
    return gelu.slope * h_dot


def gelu_adjoint_tangent(gelu: Gelu, h_dot: Tensor, y_bar_dot: Tensor) -> Tensor:
    return (gelu.slope * y_bar_dot).addcmul_(gelu.curve, h_dot)


def softmax_hessian_product(p: Tensor, weight: Tensor, z_dot: Tensor) -> Tensor:
    product = p * z_dot
    return product.addcmul_(p, product.sum(-1, keepdim=True), value=-1).mul_(weight)


def attention_tangent(
    attention: Attention, q_dot: Tensor, kv_dot: Tensor
) -> tuple[Tensor, AttentionTangent]:
    probes = len(q_dot)
    q, k, v, p = _repeated(probes, attention.q, attention.k, attention.v, attention.p)
    # Products of matrices want the heads before the positions, in memory too.
    q_dot = _by_head(q_dot)
    k_dot, v_dot = kv_dot.permute(3, 0, 1, 4, 2, 5).flatten(1, 3)
    s_dot = torch.bmm(q_dot, k.mT).baddbmm_(q, k_dot.mT)
    p_dot = torch.ops.aten._softmax_backward_data(s_dot, p, -1, p.dtype)
    o_dot = torch.bmm(p_dot, v).baddbmm_(p, v_dot)
    o_dot = o_dot.view(probes, *attention.q.shape).transpose(2, 3)
    return o_dot, (q_dot, k_dot, v_dot, p_dot)


def attention_adjoint_tangent(
    attention: Attention, tangent: AttentionTangent, o_bar_dot: Tensor
) -> tuple[Tensor, Tensor]:
    probes, a = len(o_bar_dot), attention
    q_dot, k_dot, v_dot, p_dot = tangent
    q, k, v, p = _repeated(probes, a.q, a.k, a.v, a.p)
    o_bar, s_bar, centered = _repeated(probes, a.o_bar, a.s_bar, a.centered)
    o_bar_dot = _by_head(o_bar_dot)
    # s_bar = p * centered, and rows of p and of p_dot sum to 1 and to 0.
    s_bar_dot = torch.bmm(o_bar_dot, v.mT).baddbmm_(o_bar, v_dot.mT)
    s_bar_dot.mul_(p).addcmul_(p_dot, centered)
    s_bar_dot.addcmul_(p, s_bar_dot.sum(-1, keepdim=True), value=-1)
    q_bar = torch.bmm(s_bar_dot, k).baddbmm_(s_bar, k_dot)
    k_bar = torch.bmm(s_bar_dot.mT, q).baddbmm_(s_bar.mT, q_dot)
    v_bar = torch.bmm(p_dot.mT, o_bar).baddbmm_(p.mT, o_bar_dot)
    q_bar = q_bar.view(probes, *a.q.shape).transpose(2, 3)
    k_bar, v_bar = (x.view(probes, *a.k.shape).transpose(2, 3) for x in (k_bar, v_bar))
    return q_bar, torch.stack((k_bar, v_bar), 3)


def _repeated(probes: int, *held: Tensor) -> list[Tensor]:
    """(n, heads, r, c) each -> (probes n heads, r, c)."""
    flat = [x.flatten(0, 1) for x in held]
    return flat if probes == 1 else [x.repeat(probes, 1, 1) for x in flat]


def _by_head(x: Tensor) -> Tensor:
    """(k, n, t, heads, e) -> (k n heads, t, e)."""
    return x.transpose(2, 3).reshape(-1, x.shape[2], x.shape[4])
