"""Small models with every kind of curvature, and their Hessians formed whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale

N = 7


def next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens)[:, :-1].transpose(1, 2)
    return F.cross_entropy(logits, tokens[:, 1:], reduction="none").mean(1)


def classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


class Attention(nn.Module):
    """A model of the user's that calls scaled_dot_product_attention as it stands."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(4, 12)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inputs(x).view(len(x), -1, 3, 2, 2).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2)).mean(1)


class Tied(nn.Module):
    """One matrix as encoder and, transposed, as decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight.T) @ self.weight


def build() -> dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], Any]]:
    """Name -> model, batch, loss; seeded by the caller."""

    def tokens() -> Tensor:
        return torch.randint(0, 7, (N, 5))

    def labelled(*shape: int) -> Callable[[], tuple[Tensor, Tensor]]:
        return lambda: (torch.randn(N, *shape), torch.randint(0, 3, (N,)))

    return {
        "mlp": (
            lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)),
            labelled(4),
            classify,
        ),
        "relu": (
            lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
            labelled(4),
            classify,
        ),
        "cnn": (
            lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(27, 3)),
            labelled(1, 5, 5),
            classify,
        ),
        "attention": (Attention, labelled(5, 4), classify),
        "tied": (
            Tied,
            lambda: torch.randn(N, 4),
            lambda model, x: (model(x) - x).square().sum(1),
        ),
        "gpt": (lambda: GPT(Scale("tiny", 2, 8, 2, 1e-3, 7, 5)), tokens, next_token),
    }


def made(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(5)
    model, batch, loss = build()[name]
    made_model, made_batch = model(), batch()
    with torch.no_grad():
        for parameter in made_model.parameters():  # away from zero biases and unit norms
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made_model.to(dtype), cast(made_batch, dtype), loss


def cast(batch: Any, dtype: torch.dtype) -> Any:
    if isinstance(batch, tuple):
        return tuple(cast(x, dtype) for x in batch)
    return batch.to(dtype) if batch.is_floating_point() else batch


def dense_hessian(model: nn.Module, loss_fn: Any, batch: Any) -> Tensor:
    """(P, P), all rows at once by torch's own batching."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        gradients = torch.autograd.grad(loss_fn(model, batch).mean(), parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradients])
    rows = torch.autograd.grad(
        flat,
        parameters,
        torch.eye(len(flat), dtype=flat.dtype),
        is_grads_batched=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([row.flatten(1) for row in rows], 1)


class Quadratic(nn.Module):
    """Loss 1/2 w^T A w for every sample: its Hessian is A."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(matrix), dtype=matrix.dtype))
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        value = 0.5 * self.weight @ self.matrix @ self.weight
        return value.expand(len(x))


def planted(spectrum: Tensor) -> Quadratic:
    generator = torch.Generator().manual_seed(3)
    n = len(spectrum)
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return Quadratic((basis * spectrum.double()) @ basis.mT)
