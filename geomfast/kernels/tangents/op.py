"""Tangents of a transformer's layers: the operations, and the table of their backends.

Each operation exists twice: the way there takes tangents of a layer's input to those of its output;
the way back takes the tangent of the output's adjoint to that of the input's. `reference` states
what each takes and returns. Nothing here is differentiable.
"""

from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

from geomfast.kernels.registry import Op, Placement, float32_only
from geomfast.kernels.tangents import eager, reference, triton
from geomfast.kernels.tangents.primal import Attention, Gelu, Norm

Point = TypeVar("Point", Attention, Gelu, Norm)

#: Modules with the operations.
OP = Op(
    "tangents",
    {"triton": triton, "torch": eager, "reference": reference},
    refusals={"triton": float32_only},
)


def operations(x: Tensor) -> ModuleType:
    """The module for tensors of x's type and device, chosen once for all layers."""
    return OP[OP.backend_for(x)]


_LAYERS = ("layer_norm", "gelu", "cross_entropy", "attention")


@OP.self_test({f"tangents of {layer}": 1e-5 for layer in _LAYERS})
def _self_test(backend: str, place: Placement) -> dict[str, Tensor]:
    """Two probes through every layer, there and back."""
    by: ModuleType = OP[backend]
    generator = torch.Generator().manual_seed(0)
    norm, gelu, attention = _points(generator, place)

    def normal(*shape: int) -> Tensor:
        return place(torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu"))

    there, back, out = (normal(2, *norm.normed.shape) for _ in range(3))
    (n, heads, n_queries, width), length = attention.q.shape, attention.k.shape[2]
    q_dot, o_bar_dot = (normal(2, n, n_queries, heads, width) for _ in range(2))
    kv_dot = normal(2, n, length, 2, heads, width)
    tangent = by.layer_norm_tangent(norm, there)
    by.layer_norm_adjoint_tangent(norm, tangent, back, out)
    o_dot, kept = by.attention_tangent(attention, q_dot, kv_dot)
    p = normal(*norm.normed.shape).softmax(-1)
    found = {
        "layer_norm": [tangent.normed, out],
        "gelu": [by.gelu_tangent(gelu, there), by.gelu_adjoint_tangent(gelu, there, back)],
        "cross_entropy": [by.softmax_hessian_product(p, norm.rstd, there)],
        "attention": [o_dot, *by.attention_adjoint_tangent(attention, kept, o_bar_dot)],
    }
    return {f"tangents of {n}": torch.cat([x.flatten() for x in found[n]]) for n in _LAYERS}


def _points(generator: torch.Generator, place: Placement) -> tuple[Norm, Gelu, Attention]:
    """Where tangents are taken: what the layers of a small model hold."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")

    x, a = normal(7, 12), normal(7, 12)
    rstd = x.var(-1, correction=0, keepdim=True).rsqrt()
    normed = (x - x.mean(-1, keepdim=True)) * rstd
    norm = Norm(normed, rstd, normal(7, 12), (normed * a).mean(-1, keepdim=True))

    q, o_bar = normal(2, 2, 3, 8), normal(2, 2, 3, 8)
    k, v = normal(2, 2, 5, 8), normal(2, 2, 5, 8)
    ahead = torch.ones(3, 5, dtype=torch.bool, device="cpu").triu(3)
    p = (q @ k.mT).masked_fill(ahead, -torch.inf).softmax(-1)
    p_bar = o_bar @ v.mT
    centered = p_bar - (p * p_bar).sum(-1, keepdim=True)
    o = (p @ v).transpose(1, 2).contiguous()
    attention = Attention(q, k, v, p, o, o_bar, p * centered, centered)
    gelu = Gelu(normal(7, 12), normal(7, 12))
    return _placed(norm, place), _placed(gelu, place), _placed(attention, place)


def _placed(point: Point, place: Placement) -> Point:
    return type(point)(**{name: place(x) for name, x in vars(point).items()})
