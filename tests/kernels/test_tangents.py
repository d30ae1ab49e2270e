"""Tangents of a transformer's layers: the reference against autograd, backends against it."""

import math

import pytest
import torch
import torch.nn.functional as F

from geomfast.kernels import tangents
from geomfast.kernels.backends import BackendError, interpreting_triton, triton_missing
from geomfast.kernels.tangents import OP as TANGENTS
from geomfast.kernels.tangents import Attention, Gelu, Norm
from tests import cases

REFERENCE = TANGENTS["reference"]
NO_TRITON = bool(triton_missing()) and not interpreting_triton()
NO_GPU_FOR_IT = pytest.mark.skipif(NO_TRITON, reason="neither a GPU nor Triton's interpreter")
#: Relative to the largest entry.
BACKENDS = [
    pytest.param("torch", torch.float64, 1e-12, id="torch float64"),
    pytest.param("torch", torch.float32, 3e-6, id="torch float32"),
    pytest.param("triton", torch.float32, 1e-5, id="triton", marks=NO_GPU_FOR_IT),
]


def normal(*shape: int, seed: int) -> torch.Tensor:
    return cases.normal(*shape, dtype=torch.float64, seed=seed)


def tangent_of_adjoint(function, points, dots, bar, bar_dot):
    """Tangents of function's output and of its inputs' adjoints, by autograd.

    Both are the gradient of <function, bar>, so their tangents are its Hessian's product.
    """
    points = [x.detach().requires_grad_() for x in (bar, *points)]
    gradient = torch.autograd.grad(
        (function(*points[1:]) * points[0]).sum(), points, create_graph=True
    )
    y_dot, *bars_dot = torch.autograd.grad(gradient, points, (bar_dot, *dots))
    return y_dot, bars_dot


def norm_point(rows: int, width: int) -> tuple[torch.Tensor, Norm, torch.Tensor]:
    x, a = 2 * normal(rows, width, seed=0) + 1, normal(rows, width, seed=1)
    rstd = (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()
    normed = (x - x.mean(-1, keepdim=True)) * rstd
    leaf = x.clone().requires_grad_()
    (pulled,) = torch.autograd.grad(F.layer_norm(leaf, [width]), leaf, a)
    return x, Norm(normed, rstd, pulled, (normed * a).mean(-1, keepdim=True)), a


def gelu_point(rows: int, width: int) -> tuple[torch.Tensor, Gelu, torch.Tensor]:
    h, y_bar = 2 * normal(rows, width, seed=0), normal(rows, width, seed=1)
    h.requires_grad_()
    (first,) = torch.autograd.grad(F.gelu(h).sum(), h, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), h)
    return h.detach(), Gelu(first.detach(), second * y_bar), y_bar


def attention_of(q, k, v):
    """Of the last t positions, heads before positions; q with its scale."""
    t, length = q.shape[2], k.shape[2]
    allowed = torch.ones(t, length, dtype=torch.bool).tril(length - t)
    return (q @ k.mT).masked_fill(~allowed, -math.inf).softmax(-1) @ v


def attention_point(n: int, heads: int, t: int, length: int, e: int) -> Attention:
    q, o_bar = (normal(n, heads, t, e, seed=seed) for seed in (0, 1))
    k, v = (normal(n, heads, length, e, seed=seed) for seed in (2, 3))
    allowed = torch.ones(t, length, dtype=torch.bool).tril(length - t)
    p = (q @ k.mT).masked_fill(~allowed, -math.inf).softmax(-1)
    p_bar = o_bar @ v.mT
    centered = p_bar - (p * p_bar).sum(-1, keepdim=True)
    o = (p @ v).transpose(1, 2).contiguous()
    return Attention(q, k, v, p, o, o_bar, p * centered, centered)


def moved(point, dtype: torch.dtype, device: str):
    return type(point)(**{name: x.to(device, dtype) for name, x in vars(point).items()})


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    error = (found.cpu().double() - expected).abs().max()
    assert error <= tolerance * expected.abs().max()


def device_for(backend: str) -> str:
    return "cuda" if backend == "triton" and not triton_missing() else "cpu"


def test_reference_is_the_derivative_of_layer_norm():
    x, norm, a = norm_point(7, 12)
    x_dot, a_dot, out = (normal(1, 7, 12, seed=seed) for seed in (2, 3, 4))
    layer = lambda x: F.layer_norm(x, [12])  # noqa: E731
    normed_dot, (x_bar_dot,) = tangent_of_adjoint(layer, (x,), (x_dot[0],), a, a_dot[0])
    tangent = REFERENCE.layer_norm_tangent(norm, x_dot)
    close(tangent.normed[0], normed_dot, 1e-12)
    found = out.clone()
    REFERENCE.layer_norm_adjoint_tangent(norm, tangent, a_dot, found)
    close((found - out)[0], x_bar_dot, 1e-12)


def test_reference_is_the_derivative_of_gelu():
    h, gelu, y_bar = gelu_point(5, 9)
    h_dot, y_bar_dot = normal(1, 5, 9, seed=2), normal(1, 5, 9, seed=3)
    y_dot, (h_bar_dot,) = tangent_of_adjoint(F.gelu, (h,), (h_dot[0],), y_bar, y_bar_dot[0])
    close(REFERENCE.gelu_tangent(gelu, h_dot)[0], y_dot, 1e-13)
    close(REFERENCE.gelu_adjoint_tangent(gelu, h_dot, y_bar_dot)[0], h_bar_dot, 1e-13)


def test_reference_is_the_hessian_of_cross_entropy():
    z, targets, weight = normal(6, 11, seed=0), torch.arange(6), normal(6, 1, seed=1).abs()
    z_dot = normal(1, 6, 11, seed=2)

    z.requires_grad_()
    loss = (F.cross_entropy(z, targets, reduction="none") * weight[:, 0]).sum()
    (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
    (expected,) = torch.autograd.grad(gradient, z, z_dot[0])
    z = z.detach()
    close(REFERENCE.softmax_hessian_product(z.softmax(-1), weight, z_dot)[0], expected, 1e-13)


@pytest.mark.parametrize("t", [1, 3, 6])
def test_reference_is_the_derivative_of_attention(t):
    n, heads, length, e = 2, 3, 6, 4
    a = attention_point(n, heads, t, length, e)
    q_dot, o_bar_dot = (normal(1, n, t, heads, e, seed=seed) for seed in (4, 5))
    kv_dot = normal(1, n, length, 2, heads, e, seed=6)
    k_dot, v_dot = (x[0].transpose(1, 2) for x in kv_dot.unbind(3))
    o_dot, bars_dot = tangent_of_adjoint(
        attention_of,
        (a.q, a.k, a.v),
        (q_dot[0].transpose(1, 2), k_dot, v_dot),
        a.o_bar,
        o_bar_dot[0].transpose(1, 2),
    )
    found, tangent = REFERENCE.attention_tangent(a, q_dot, kv_dot)
    close(found[0], o_dot.transpose(1, 2), 1e-13)
    q_bar, kv_bar = REFERENCE.attention_adjoint_tangent(a, tangent, o_bar_dot)
    for found, expected in zip((q_bar, *kv_bar.unbind(3)), bars_dot, strict=True):
        close(found[0], expected.transpose(1, 2), 1e-13)


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), BACKENDS)
@pytest.mark.parametrize("probes", [1, 3])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 3), (33, 128), (3, 200), (2, 2100)])
def test_rows_of_every_backend(backend, dtype, tolerance, probes, rows, width):
    ops, device = TANGENTS[backend], device_for(backend)
    to = {"device": device, "dtype": dtype}
    dots = [normal(probes, rows, width, seed=seed) for seed in (2, 3, 4)]
    first, second, third = (x.to(**to) for x in dots)

    norm = norm_point(rows, width)[1]
    expected = REFERENCE.layer_norm_tangent(norm, dots[0])
    found = ops.layer_norm_tangent(moved(norm, dtype, device), first)
    for one, other in zip(found, expected, strict=True):
        if width > 1:  # where all tangents of a LayerNorm are rounding
            close(one, other, tolerance)
    out = dots[2].clone()
    REFERENCE.layer_norm_adjoint_tangent(norm, expected, dots[1], out)
    added = third.clone()
    ops.layer_norm_adjoint_tangent(moved(norm, dtype, device), found, second, added)
    close(added, out, tolerance * (1 if width > 1 else 1e3))

    gelu = gelu_point(rows, width)[1]
    here = moved(gelu, dtype, device)
    close(ops.gelu_tangent(here, first), REFERENCE.gelu_tangent(gelu, dots[0]), tolerance)
    back = REFERENCE.gelu_adjoint_tangent(gelu, *dots[:2])
    close(ops.gelu_adjoint_tangent(here, first, second), back, tolerance)

    p, weight = normal(rows, width, seed=5).softmax(-1), normal(rows, 1, seed=6).abs()
    expected = REFERENCE.softmax_hessian_product(p, weight, dots[0])
    found = ops.softmax_hessian_product(p.to(**to), weight.to(**to), first)
    if width > 1:
        close(found, expected, tolerance)


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), BACKENDS)
@pytest.mark.parametrize(
    ("probes", "n", "heads", "t", "length", "e"),
    [
        (1, 1, 1, 1, 1, 1),
        (2, 3, 2, 5, 5, 8),
        (3, 2, 2, 4, 17, 16),
        (1, 2, 1, 48, 48, 32),
        (2, 1, 2, 40, 128, 24),
        (1, 1, 1, 3, 130, 8),
        (2, 1, 2, 70, 70, 64),
        (1, 2, 1, 3, 5, 72),
    ],
)
def test_attention_of_every_backend(backend, dtype, tolerance, probes, n, heads, t, length, e):
    ops, device = TANGENTS[backend], device_for(backend)
    a = attention_point(n, heads, t, length, e)
    here = moved(a, dtype, device)
    q_dot, o_bar_dot = (normal(probes, n, t, heads, e, seed=seed) for seed in (4, 5))
    kv_dot = normal(probes, n, length, 2, heads, e, seed=6)
    expected, tangent = REFERENCE.attention_tangent(a, q_dot, kv_dot)
    found, kept = ops.attention_tangent(here, q_dot.to(device, dtype), kv_dot.to(device, dtype))
    close(found, expected, tolerance)
    back = REFERENCE.attention_adjoint_tangent(a, tangent, o_bar_dot)
    found = ops.attention_adjoint_tangent(here, kept, o_bar_dot.to(device, dtype))
    for one, other in zip(found, back, strict=True):
        close(one, other, tolerance) if length > 1 else None


def test_the_backend_is_chosen_by_device_and_type(monkeypatch):
    monkeypatch.delenv("GEOMFAST_BACKEND", raising=False)
    x = torch.zeros(1)
    assert tangents.OP.backend_for(x) == "torch"
    monkeypatch.setenv("GEOMFAST_BACKEND", "reference")
    assert tangents.operations(x) is REFERENCE
    monkeypatch.setenv("GEOMFAST_BACKEND", "triton")
    with pytest.raises(BackendError, match="triton does not support tangents"):
        tangents.operations(x.double())
