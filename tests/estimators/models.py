"""Small models whose parameters are used in every way that a per-sample gradient must get right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale

N = 6

LossFunction = Callable[[nn.Module, Any], Tensor]


def loss(model: nn.Module, batch: Any) -> Tensor:
    """A loss with a different curvature for every sample, of whatever the model returns."""
    out = model(batch)
    return (out.flatten(1).sin().sum(1) + out.flatten(1).square().mean(1)).float()


def loss64(model: nn.Module, batch: Any) -> Tensor:
    out = model(batch)
    return out.flatten(1).sin().sum(1) + out.flatten(1).square().mean(1)


class Functional(nn.Module):
    """Weights without modules, one used twice, through F.linear, @, addmm and transposes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(5, 4))
        self.b = nn.Parameter(torch.randn(5, 5))
        self.c = nn.Parameter(torch.randn(5))
        self.gate = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.a, self.c)
        x = torch.tanh(x) @ self.b
        x = self.gate * x @ self.b.T + self.c
        shape = x.shape
        return torch.addmm(self.c, x.view(-1, 5), self.b.t()).view(shape)


class InPlace(nn.Module):
    """Outputs overwritten in place by what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.SiLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Tables(nn.Module):
    """Embedding with a padding row, tied to the output; positions as an embedding and a slice."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8, padding_idx=0)
        self.learned = nn.Embedding(9, 8)
        self.sliced = nn.Parameter(torch.randn(9, 8))
        self.added = nn.Parameter(torch.randn(1, N, 8))
        self.out = nn.Linear(8, 11)
        if tied:
            self.out.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        t = x.shape[1]
        h = self.tokens(x) + self.learned(torch.arange(t)) + self.sliced[:t]
        h = h + self.learned(torch.arange(t).unsqueeze(0)) + self.added[:, :t]
        h = h + self.learned(torch.arange(t).expand(x.shape))
        return self.out(torch.tanh(h))


class Norms(nn.Module):
    """LayerNorm, RMSNorm, and an RMSNorm written out as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LayerNorm(8)
        self.second = nn.RMSNorm(8)
        self.whole = nn.LayerNorm((3, 8))
        self.weight = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.whole(self.second(self.first(x)))
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class Attention(nn.Module):
    """torch's own, whose weights go through one big function."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


class TimeFirst(nn.Module):
    """Works on (T, N, d), where samples are not first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1).contiguous()).transpose(0, 1)


class Einsum(nn.Module):
    """An operation without a rule beside one that has one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ntd,de->nte", self.layer(x), self.weight)


class Doubled(torch.autograd.Function):
    """x W, which no function mode sees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (b,), (x, weight) = gradients, ctx.saved_tensors
        return b @ weight.mT, x.flatten(0, -2).mT @ b.flatten(0, -2)


class Unseen(nn.Module):
    """A weight used in sight, and again where only autograd sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.hidden = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x @ self.weight)
        return torch.as_tensor(Doubled.apply(Doubled.apply(x, self.weight), self.hidden))


class CutOut(nn.Module):
    """Weights cut out of larger ones, for which a copy per sample means something else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(9, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight[:6]) * self.weight[:, :1].sum()


def build() -> dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]]:
    """Name -> model, batch; seeded by the caller."""

    def vectors() -> Tensor:
        return torch.randn(N, 4)

    def rows() -> Tensor:
        return torch.randn(N, 3, 4)

    def wide() -> Tensor:
        return torch.randn(N, 3, 8)

    def tokens(length: int) -> Callable[[], Tensor]:
        return lambda: torch.randint(0, 11, (N, length))

    return {
        "linear": (lambda: nn.Linear(4, 3), vectors),
        "linear over positions": (lambda: nn.Linear(4, 3, bias=False), rows),
        "deep": (lambda: nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2)), rows),
        "functional, shared": (Functional, rows),
        "in place": (InPlace, vectors),
        "conv1d": (
            lambda: nn.Conv1d(3, 5, 2, stride=2, padding=1, dilation=2),
            lambda: torch.randn(N, 3, 9),
        ),
        "conv2d": (
            lambda: nn.Sequential(
                nn.Conv2d(3, 4, (3, 2), padding=1), nn.ReLU(), nn.Conv2d(4, 2, 2)
            ),
            lambda: torch.randn(N, 3, 6, 5),
        ),
        "conv2d in groups": (
            lambda: nn.Conv2d(4, 4, 3, groups=2, padding="same"),
            lambda: torch.randn(N, 4, 5, 5),
        ),
        "tables, tied": (Tables, tokens(N)),  # as long as there are samples: the trap
        "tables, not tied": (lambda: Tables(tied=False), tokens(N)),
        "norms": (Norms, wide),
        "attention of torch": (Attention, wide),
        # Twice as many positions as samples: they look like samples and positions in one.
        "time first": (TimeFirst, lambda: torch.randn(N, 2 * N, 4)),
        "no rule": (Einsum, rows),
        "batch norm, evaluated": (
            lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).eval(),
            vectors,
        ),
        "lstm": (Lstm, rows),
        "unseen": (Unseen, rows),
        "cut out": (CutOut, rows),
        "gpt": (lambda: GPT(Scale("tiny", 2, 16, 2, 1e-3, 11, 9)), tokens(7)),
        "gpt, as long as wide": (lambda: GPT(Scale("tiny", 1, 16, 2, 1e-3, 11, 9)), tokens(N)),
    }


class Lstm(nn.Module):
    """Recurrent."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


def exact_gram(model: nn.Module, loss_fn: LossFunction, batch: Any, samples: int = N) -> Tensor:
    """Float64 Gram matrix of gradients taken one by one and stored."""
    losses = loss_fn(model, batch)
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for i in range(samples):
        gradients = torch.autograd.grad(losses[i], parameters, retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in gradients]).double())
    stacked = torch.stack(rows)
    return stacked @ stacked.T
