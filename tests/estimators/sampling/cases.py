"""Losses whose local learning coefficient is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.estimators.sampling.chains import ChainGroup, Sampling, Traces
from geomfast.kernels.sgld import Dynamics
from tests import cases


class Quadratic(nn.Module):
    """Loss 1/2 sum h_i w_i^2 + x.w of sample x: a quadratic, with the gradient noise of the x."""

    curvature: Tensor

    def __init__(self, curvature: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros_like(curvature))
        self.register_buffer("curvature", curvature)

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (self.curvature * self.weight.square()).sum() + x @ self.weight


def output(model: nn.Module, batch: Any) -> Tensor:
    """For models that return the losses of their samples."""
    return model(batch)


def noise(samples: int, curvature: Tensor, seed: int = 0) -> Tensor:
    """(n, d) gradients of single samples: mean zero, covariance about diag(curvature)."""
    x = cases.normal(samples, len(curvature), seed=seed).to(curvature.dtype) * curvature.sqrt()
    return x - x.mean(0)


def silence(curvature: Tensor, samples: int = 1) -> Tensor:
    """(n, d): samples without noise."""
    return torch.zeros(samples, len(curvature), dtype=curvature.dtype)


def coefficient(
    curvature: Tensor,
    lr: float,
    nbeta: float,
    localization: float,
    data: Tensor | None = None,
    batch_size: int = 1,
) -> float:
    """Of a `Quadratic`: 1/2 sum nbeta h v, v the stationary variance of each weight.

    With a = nbeta h + localization, v = (1 + lr c / 4) / (a (1 - lr a / 4)), where c is the
    variance of nbeta times a minibatch's gradient; none without data.
    """
    h = curvature.double()
    a = nbeta * h + localization
    c = torch.zeros_like(h)
    if data is not None:
        n = len(data)
        c = nbeta**2 * data.double().var(0) * (1.0 / batch_size - 1.0 / n)
    variance = (1.0 + lr * c / 4.0) / (a * (1.0 - lr * a / 4.0))
    return 0.5 * nbeta * (h * variance).sum().item()


def effect(curvature: Tensor, lr: float, nbeta: float, localization: float) -> float:
    """-d log coefficient / d log localization of a `Quadratic`, at lr 0 and nearly so above."""
    h = curvature.double()
    a = nbeta * h + localization
    variance = 1.0 / (a * (1.0 - lr * a / 4.0))
    return (localization * (h * variance.square()).sum() / (h * variance).sum()).item()


class Polynomial(nn.Module):
    """Loss f(w) of `size` weights that begin at 0."""

    def __init__(self, f: Callable[[Tensor], Tensor], size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.weight) + 0.0 * x[:, 0]


class Product(nn.Module):
    """Population loss 1/2 |W_L ... W_1 - W|^2 of a linear network that represents W exactly.

    W, and every W_s, has ones on the first `rank` entries of its diagonal, zeros elsewhere.
    """

    target: Tensor

    def __init__(self, widths: Sequence[int], rank: int) -> None:
        super().__init__()
        kept = torch.zeros(max(widths), max(widths))
        kept[range(rank), range(rank)] = 1.0
        self.layers = nn.ParameterList(
            nn.Parameter(kept[:after, :before].clone())
            for before, after in itertools.pairwise(widths)
        )
        self.register_buffer("target", kept[: widths[-1], : widths[0]].clone())

    def forward(self, x: Tensor) -> Tensor:
        product, *rest = self.layers
        for layer in rest:
            product = layer @ product
        return 0.5 * (product - self.target).square().sum().expand(len(x))


def reduced_rank(inputs: int, hidden: int, outputs: int, rank: int) -> float:
    """Learning coefficient of y = B A x of true rank r: Aoyagi and Watanabe (2005)."""
    m, h, n, r = inputs, hidden, outputs, rank
    if m + h < n + r:
        return (h * m - h * r + n * r) / 2
    if n + h < m + r:
        return (h * n - h * r + m * r) / 2
    if m + n < h + r:
        return m * n / 2
    odd = (m + h + n + r) % 2
    return (2 * (h + r) * (m + n) + 2 * m * n - (h + r) ** 2 - m**2 - n**2 + odd) / 8


def deep_linear(widths: Sequence[int], rank: int) -> float:
    """Learning coefficient of a deep linear network: Aoyagi (2024), Neural Networks 172, 106132."""
    spare = sorted(width - rank for width in widths)
    for size in range(2, len(spare) + 1):
        inside, outside = spare[:size], spare[size:]
        layers, total = size - 1, sum(inside)
        if outside and not (inside[-1] < outside[0] and total < layers * outside[0]):
            continue
        if total < layers * inside[-1]:
            continue
        left = total - (math.ceil(total / layers) - 1) * layers
        pairs = (total**2 - sum(m * m for m in inside)) / 2
        return (
            (rank * (widths[0] + widths[-1]) - rank**2) / 2
            + left * (layers - left) / (4 * layers)
            - layers * (layers - 1) / 4 * (total / layers) ** 2
            + pairs / 2
        )
    raise AssertionError(f"no subset of {spare} fits")


def sampling(
    model: nn.Module,
    data: Any,
    *,
    loss_fn: Any = output,
    lr: float = 0.05,
    nbeta: float = 10.0,
    localization: float = 1.0,
    momentum: float | None = None,
    batch_size: int | None = None,
    steps: int = 20,
    seed: int = 0,
    common_batches: bool = False,
) -> Sampling:
    """Of all parameters, with data one batch or a list of batches."""
    batches = data if isinstance(data, list) else [data]
    with torch.no_grad():
        initial = torch.cat([loss_fn(model, batch).double() for batch in batches])
    return Sampling(
        model,
        loss_fn,
        dict(model.named_parameters()),
        batches,
        initial,
        Dynamics(lr, nbeta, localization, momentum),
        batch_size,
        steps,
        seed,
        common_batches,
    )


def run_chains(given: Sampling, first_chain: int, chains: int, *progress: Callable) -> Traces:
    """All steps of some chains as one program."""
    return ChainGroup(given, first_chain, chains).run(given.steps, *progress)
