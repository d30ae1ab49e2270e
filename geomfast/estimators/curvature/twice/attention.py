"""Attention o = p v, p = softmax(scale q k^T), with its probabilities kept.

With s = scale q k^T, D = p_bar - <p_bar> under p, and s_bar = p D, a product with the Hessian is

    s. = scale (q. k^T + q k.^T)     p. = p (s. - sum p s.)    o. = p. v + p v.
    E = p. D + p (o_bar. v^T + o_bar v.^T)                     s_bar. = E - p sum E
"""

from __future__ import annotations

import torch
from torch import Tensor

from geomfast.estimators.curvature.twice.pairs import Exact, refuse_third, token
from geomfast.estimators.curvature.twice.rows import softmax_backward


def attention(q: Tensor, k: Tensor, v: Tensor, p: Tensor, scale: float) -> Tensor:
    """(b, t, e), (b, T, e), (b, T, f) and probabilities (b, t, T) of them -> (b, t, f)."""
    return _Attention.apply(q, k, v, p, scale)[0]


def times(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale a b, of (b, r, s) and (b, s, c)."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale)


def _plus(total: Tensor | None, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """total + scale a b, in place where there is a total."""
    if total is None:
        return torch.bmm(a, b) if scale == 1.0 else times(a, b, scale)
    return total.baddbmm_(a, b, alpha=scale)


class _Attention(Exact):
    @staticmethod
    def forward(ctx, q, k, v, p, scale):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        ctx.scale = scale
        tokens = [token(x.shape, x) for x in (q, k, v, p)]
        ctx.save_for_backward(q, k, v, p, *tokens)
        return torch.bmm(p, v), *tokens

    @staticmethod
    def backward(ctx, o_bar, to_q, to_k, to_v, to_p):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, p, *tokens = ctx.saved_tensors
        q, k, v = q.detach(), k.detach(), v.detach()
        second = not (to_q is None and to_k is None and to_v is None and to_p is None)
        if torch.is_grad_enabled():
            if second:
                refuse_third()
            if o_bar is None:
                return (None,) * 5
            found = _AttentionBackward.apply(o_bar, *tokens, q, k, v, p, ctx.scale)
            return *found, None, None
        total = to_p
        if o_bar is not None:
            p_bar = torch.bmm(o_bar, v.mT)
            total = p_bar.mul_(p) if to_p is None else to_p.addcmul_(p, p_bar)
            to_v = _plus(to_v, p.mT, o_bar)
        if total is not None:
            s_bar = total.addcmul_(p, total.sum(-1, keepdim=True), value=-1)
            to_q = _plus(to_q, s_bar, k, ctx.scale)
            to_k = _plus(to_k, s_bar.mT, q, ctx.scale)
        return to_q, to_k, to_v, None, None


class _AttentionBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, o_bar, with_q, with_k, with_v, with_p, q, k, v, p, scale):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        ctx.scale = scale
        centered = torch.bmm(o_bar, v.mT)
        centered -= (p * centered).sum(-1, keepdim=True)
        s_bar = p * centered
        ctx.save_for_backward(o_bar, q, k, v, p, centered, s_bar)
        return times(s_bar, k, scale), times(s_bar.mT, q, scale), torch.bmm(p.mT, o_bar)

    @staticmethod
    def backward(ctx, q_dot, k_dot, v_dot):  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_third()
        o_bar, q, k, v, p, centered, s_bar = ctx.saved_tensors
        s_dot = o_dot = to_q = to_k = to_v = to_p = None
        if q_dot is not None:
            s_dot = times(q_dot, k.mT, ctx.scale)
            to_k = times(s_bar.mT, q_dot, ctx.scale)
        if k_dot is not None:
            s_dot = _plus(s_dot, q, k_dot.mT, ctx.scale)
            to_q = times(s_bar, k_dot, ctx.scale)
        if v_dot is not None:
            to_p = torch.bmm(o_bar, v_dot.mT).mul_(p)
            o_dot = torch.bmm(p, v_dot)
        if s_dot is not None:
            p_dot = softmax_backward(s_dot, p, -1)
            o_dot = _plus(o_dot, p_dot, v)
            to_v = torch.bmm(p_dot.mT, o_bar)
            to_p = p_dot.mul_(centered) if to_p is None else to_p.addcmul_(p_dot, centered)
        return o_dot, to_q, to_k, to_v, to_p, None, None, None, None, None
