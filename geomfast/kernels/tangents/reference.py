"""Backend "reference": the formulas of the README as they stand, for comparison."""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.kernels.tangents.primal import Attention, AttentionTangent, Gelu, Norm, NormTangent


def layer_norm_tangent(norm: Norm, x_dot: Tensor) -> NormTangent:
    """Forward: tangent of the normed rows from that of the input, (k, M, d) each."""
    along = (norm.normed * x_dot).mean(-1, keepdim=True)
    against = (norm.pulled * x_dot).mean(-1, keepdim=True)
    return NormTangent(_jacobian(norm, x_dot), along, against)


def layer_norm_adjoint_tangent(
    norm: Norm, tangent: NormTangent, a_dot: Tensor, out: Tensor
) -> None:
    """Backward: adds the tangent of the input's adjoint to out; a_dot is the output's."""
    turned = norm.normed * tangent.against + tangent.normed * norm.overlap
    scaled = norm.pulled * tangent.along
    out += _jacobian(norm, a_dot) - norm.rstd * (turned + scaled)


def _jacobian(norm: Norm, x: Tensor) -> Tensor:
    along = (norm.normed * x).mean(-1, keepdim=True)
    return norm.rstd * (x - x.mean(-1, keepdim=True) - norm.normed * along)


def gelu_tangent(gelu: Gelu, h_dot: Tensor) -> Tensor:
    """Forward: (k, M, f) -> (k, M, f)."""
    return gelu.slope * h_dot


def gelu_adjoint_tangent(gelu: Gelu, h_dot: Tensor, y_bar_dot: Tensor) -> Tensor:
    """Backward: tangent of the input's adjoint from that of the output's, (k, M, f) each."""
    return gelu.slope * y_bar_dot + gelu.curve * h_dot


def softmax_hessian_product(p: Tensor, weight: Tensor, z_dot: Tensor) -> Tensor:
    """Tangent of a weighted cross-entropy's gradient, w (diag(p) - p p^T) z_dot.

    Args:
        p: (M, V) probabilities.
        weight: (M, 1).
        z_dot: (k, M, V) tangent of the logits.
    """
    return weight * p * (z_dot - (p * z_dot).sum(-1, keepdim=True))


def attention_tangent(
    attention: Attention, q_dot: Tensor, kv_dot: Tensor
) -> tuple[Tensor, AttentionTangent]:
    """Forward: tangent (probes, n, t, heads, e) of the output, and what the way back needs.

    Args:
        attention: the layer at its point.
        q_dot: (probes, n, t, heads, e) tangent of the queries, scale included.
        kv_dot: (probes, n, T, 2, heads, e) tangents of the keys and the values.
    """
    a = attention
    q_dot = q_dot.transpose(2, 3)
    k_dot, v_dot = (x.transpose(2, 3) for x in kv_dot.unbind(3))
    s_dot = q_dot @ a.k.mT + a.q @ k_dot.mT
    p_dot = a.p * (s_dot - (a.p * s_dot).sum(-1, keepdim=True))
    o_dot = p_dot @ a.v + a.p @ v_dot
    return o_dot.transpose(2, 3), (q_dot, k_dot, v_dot, p_dot)


def attention_adjoint_tangent(
    attention: Attention, tangent: AttentionTangent, o_bar_dot: Tensor
) -> tuple[Tensor, Tensor]:
    """Backward: tangents of the adjoints of the queries, and of the keys and values.

    Args:
        attention, tangent: of and from `attention_tangent`.
        o_bar_dot: (probes, n, t, heads, e) tangent of the output's adjoint.
    """
    a, (q_dot, k_dot, v_dot, p_dot) = attention, tangent
    o_bar_dot = o_bar_dot.transpose(2, 3)
    p_bar_dot = o_bar_dot @ a.v.mT + a.o_bar @ v_dot.mT
    mean_dot = (p_dot * a.centered + a.p * p_bar_dot).sum(-1, keepdim=True)
    s_bar_dot = p_dot * a.centered + a.p * (p_bar_dot - mean_dot)
    q_bar = s_bar_dot @ a.k + a.s_bar @ k_dot
    k_bar = s_bar_dot.mT @ a.q + a.s_bar.mT @ q_dot
    v_bar = p_dot.mT @ a.o_bar + a.p.mT @ o_bar_dot
    k_bar, v_bar = k_bar.transpose(2, 3), v_bar.transpose(2, 3)
    return q_bar.transpose(2, 3), torch.stack((k_bar, v_bar), 3)
