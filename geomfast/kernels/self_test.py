"""Every kernel on every backend here, on small inputs, against its float64 reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from geomfast.kernels import adamw, gradient_gram, member_norm, row_attention, tangents
from geomfast.kernels.gradient_gram import Factors
from geomfast.kernels.gradient_gram import reference as gradient_gram_reference
from geomfast.kernels.sgld import op as sgld
from geomfast.kernels.spectra import op as spectra
from geomfast.kernels.spectra.entropy import exp_entropy
from geomfast.kernels.tangents import Attention, Gelu, Norm
from geomfast.kernels.tangents.op import IMPLEMENTATIONS as TANGENTS

Point = TypeVar("Point", Tensor, Attention, Gelu, Norm)
#: Takes points and tensors to the place and type in which a backend computes.
Placement = Callable[[Any], Any]


@dataclass(frozen=True)
class SelfTest:
    """Outcome of one kernel on one backend.

    Attributes:
        kernel: name of the operation.
        backend: name of the backend.
        error: largest error relative to the largest reference value.
        allowed: the kernel's stated tolerance.
        passed: whether the error is within it.
    """

    kernel: str
    backend: str
    error: float
    allowed: float
    passed: bool


def self_test() -> list[SelfTest]:
    """Run the self-test of every kernel on every backend that serves here, on CPU and GPU."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 40, 24, generator=generator, device="cpu")
    x[3] = x[3, :, :1] @ x[3, :1]  # rank one
    x[4] = 0.0
    values = spectra.IMPLEMENTATIONS["reference"](x)
    ranks = exp_entropy(values, 0.0)
    results = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        y = x.to(device)
        for backend in spectra.backends_serving(y):
            where = backend if device == "cpu" else f"{backend} on {device}"
            # Squaring halves the digits of singular values that are zero: sqrt(eps) remains.
            found = spectra.IMPLEMENTATIONS[backend](y).cpu()
            results.append(_compared("singular_values", where, found, values, 1e-7))
            found = spectra.rankme_on(backend, y, 0.0).cpu()
            results.append(_compared("rankme", where, found, ranks, 2e-5))
        results += _gradient_gram(device, generator)
        results += _sgld(device, generator)
        results += _adamw(device, generator)
        results += _row_attention(device, generator)
        results += _member_norm(device, generator)
        results += _tangents(device, generator)
    return results


def _gradient_gram(device: str, generator: torch.Generator) -> list[SelfTest]:
    """A parameter used twice, by a lookup and by a product, each way of computing."""
    left, right, other = (
        torch.randn(9, 5, 12, generator=generator, device="cpu").to(device) for _ in range(3)
    )
    rows = torch.randint(0, 12, (9, 5), generator=generator, device="cpu").to(device)
    uses = [Factors(left, right, 12), Factors(rows, other, 12)]
    expected = gradient_gram_reference.gram(uses, centered=False).cpu()
    results = []
    for backend in gradient_gram.backends_serving(right):
        where = backend if device == "cpu" else f"{backend} on {device}"
        for way in ("ghost", "materialised") if backend != "reference" else ("",):
            found = gradient_gram.gram_on(backend, uses, way=way).cpu()
            name = f"gradient_gram {way}".rstrip()
            results.append(_compared(name, where, found, expected, 1e-5))
    return results


def _sgld(device: str, generator: torch.Generator) -> list[SelfTest]:
    """Noise, and steps with a preconditioner; several groups of counters, the last not full."""
    shape = (3, 300)
    dynamics = sgld.Dynamics(0.1, 5.0, 1.0, sgld.RmsProp())
    weights, gradients, previous = torch.randn(3, *shape, generator=generator, device="cpu").to(
        device
    )

    def noise(backend: str) -> Tensor:
        return sgld.normals_on(backend, *shape, 1, 2, 3, weights.device).cpu()

    def step(backend: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        moved, g, before = (x.to(dtype, copy=True) for x in (weights, gradients, previous))
        square_average, center = torch.zeros_like(g), torch.zeros_like(g[0])
        sums = sgld.step_on(
            backend, moved, g, center, dynamics, seed=1, step=2, previous=before,
            square_average=square_average,
        )  # fmt: skip
        return moved.cpu(), sums.cpu()

    exact_noise, exact = noise("reference"), step("reference", torch.float64)
    results = []
    for backend in sgld.backends_serving(weights):
        where = backend if device == "cpu" else f"{backend} on {device}"
        found = step(backend, weights.dtype)
        results += [
            _compared("sgld normals", where, noise(backend), exact_noise, 1e-6),
            _compared("sgld_step", where, found[0], exact[0], 1e-6),
            _compared("sgld_step sums", where, found[1], exact[1], 1e-5),
        ]
    return results


def _adamw(device: str, generator: torch.Generator) -> list[SelfTest]:
    """A later step of members of more than one block, one of which stays as it is."""
    state = torch.randn(4, 3, 1100, generator=generator, device="cpu")
    state[3] **= 2  # the mean of squares
    rule = adamw.AdamW((0.9, 0.98), 0.1)
    options = {
        "factors": rule.factors([1e-2] * 9)[8],
        "scales": torch.tensor([1.0, 0.3, 0.5], device="cpu"),
        "active": torch.tensor([True, True, False], device="cpu"),
    }

    def moved(backend: str, where: str) -> Tensor:
        weights, gradients, exp_avg, exp_avg_sq = (x.to(where, copy=True) for x in state)
        onto = {name: x.to(where) for name, x in options.items()}
        adamw.step_on(backend, weights, gradients, exp_avg, exp_avg_sq, rule, matrices=700, **onto)
        return torch.stack([weights, exp_avg, exp_avg_sq]).cpu()

    expected = moved("reference", "cpu")
    results = []
    for backend in adamw.backends_serving(state.to(device)):
        where = backend if device == "cpu" else f"{backend} on {device}"
        results.append(_compared("adamw_step", where, moved(backend, device), expected, 1e-6))
    return results


def _row_attention(device: str, generator: torch.Generator) -> list[SelfTest]:
    """Rows on both sides of a vector's length, there and back."""
    offsets, heads, width = torch.tensor([0, 3, 18, 35], device="cpu"), 2, 12
    qkv = torch.randn(2, 35, 3 * heads * width, generator=generator, device="cpu")
    into = torch.randn(2, 35, heads * width, generator=generator, device="cpu")

    def run(backend: str, dtype: torch.dtype, where: str) -> tuple[Tensor, Tensor]:
        given, back = (x.to(where, dtype) for x in (qkv, into))
        mixed, gradient = torch.empty_like(back), torch.empty_like(given)
        row_attention.run_on(backend, given, offsets, heads, mixed)
        row_attention.run_on(backend, given, offsets, heads, gradient, back)
        return mixed.cpu(), gradient.cpu()

    exact = run("reference", torch.float64, "cpu")
    results = []
    for backend in row_attention.backends_serving(qkv.to(device)):
        where = backend if device == "cpu" else f"{backend} on {device}"
        found = run(backend, torch.float32, device)
        results.append(_compared("row_attention", where, found[0], exact[0], 1e-6))
        results.append(_compared("row_attention backward", where, found[1], exact[1], 1e-5))
    return results


def _member_norm(device: str, generator: torch.Generator) -> list[SelfTest]:
    """Tokens that do not fill whole vectors, there and back."""
    x, into = torch.randn(2, 3, 50, 20, generator=generator, device="cpu")
    gain, bias = torch.randn(2, 3, 20, generator=generator, device="cpu")

    def run(backend: str, dtype: torch.dtype, where: str) -> tuple[Tensor, Tensor]:
        of, back, gains, biases = (y.to(where, dtype) for y in (x, into, gain, bias))
        out, statistics = torch.empty_like(of), of.new_empty(3, 50, 2)
        member_norm.forward_on(backend, of, gains, biases, out, statistics)
        gradients = torch.zeros_like(of), torch.empty_like(gains), torch.empty_like(gains)
        member_norm.backward_on(backend, back, of, statistics, gains, *gradients)
        return out.cpu(), torch.cat([y.flatten() for y in gradients]).cpu()

    exact = run("reference", torch.float64, "cpu")
    results = []
    for backend in member_norm.backends_serving(x.to(device)):
        where = backend if device == "cpu" else f"{backend} on {device}"
        found = run(backend, torch.float32, device)
        results.append(_compared("member_norm", where, found[0], exact[0], 1e-6))
        results.append(_compared("member_norm backward", where, found[1], exact[1], 1e-5))
    return results


def _tangents(device: str, generator: torch.Generator) -> list[SelfTest]:
    """Two probes through every layer, there and back."""
    norm, gelu, attention = _points(generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")

    there, back, out = (normal(2, *norm.normed.shape) for _ in range(3))
    (n, heads, asking, width), length = attention.q.shape, attention.k.shape[2]
    q_dot, o_bar_dot = (normal(2, n, asking, heads, width) for _ in range(2))
    kv_dot = normal(2, n, length, 2, heads, width)
    p, weight = normal(*norm.normed.shape).softmax(-1), norm.rstd

    def layer_norm(by: ModuleType, to: Placement) -> list[Tensor]:
        tangent, added = by.layer_norm_tangent(to(norm), to(there)), to(out).clone()
        by.layer_norm_adjoint_tangent(to(norm), tangent, to(back), added)
        return [tangent.normed, added]

    def gelus(by: ModuleType, to: Placement) -> list[Tensor]:
        adjoint = by.gelu_adjoint_tangent(to(gelu), to(there), to(back))
        return [by.gelu_tangent(to(gelu), to(there)), adjoint]

    def cross_entropy(by: ModuleType, to: Placement) -> list[Tensor]:
        return [by.softmax_hessian_product(to(p), to(weight), to(there))]

    def attentions(by: ModuleType, to: Placement) -> list[Tensor]:
        o_dot, tangent = by.attention_tangent(to(attention), to(q_dot), to(kv_dot))
        return [o_dot, *by.attention_adjoint_tangent(to(attention), tangent, to(o_bar_dot))]

    layers = {"layer_norm": layer_norm, "gelu": gelus, "cross_entropy": cross_entropy}
    results = []
    for name, layer in (layers | {"attention": attentions}).items():
        exact = layer(TANGENTS["reference"], lambda x: x)
        for backend in tangents.backends_serving(torch.empty(0, device=device)):
            where = backend if device == "cpu" else f"{backend} on {device}"
            found = layer(TANGENTS[backend], lambda x: _in_float32(x, device))
            found, expected = (torch.cat([y.flatten().cpu() for y in z]) for z in (found, exact))
            results.append(_compared(f"tangents of {name}", where, found, expected, 1e-5))
    return results


def _points(generator: torch.Generator) -> tuple[Norm, Gelu, Attention]:
    """Where tangents are taken: what the layers of a small model hold, in float64."""

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
    return norm, Gelu(normal(7, 12), normal(7, 12)), attention


def _in_float32(x: Point, device: str) -> Point:
    if isinstance(x, Tensor):
        return x.to(device, torch.float32)
    return type(x)(**{name: y.to(device, torch.float32) for name, y in vars(x).items()})


def _compared(
    kernel: str, backend: str, found: Tensor, expected: Tensor, allowed: float
) -> SelfTest:
    error = float((found - expected).abs().max() / expected.abs().max())
    return SelfTest(kernel, backend, error, allowed, error <= allowed)
