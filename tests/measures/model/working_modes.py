"""Modules whose train() and eval() do work, and what else a forward pass may leave behind."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tracker.tracked import CLASSES, WIDTH


class LoraLinear(nn.Linear):
    """Low-rank changes that eval() folds into the weight, and train() takes out of it again."""

    def __init__(self, inputs: int, outputs: int, rank: int = 2):
        super().__init__(inputs, outputs)
        self.a = nn.Parameter(0.3 * torch.randn(rank, inputs))
        self.b = nn.Parameter(0.3 * torch.randn(outputs, rank))
        self.weight.requires_grad_(False)
        self.merged = False

    def train(self, mode: bool = True) -> LoraLinear:
        super().train(mode)
        if mode == self.merged:
            change = self.b.data @ self.a.data
            self.weight.data += -change if self.merged else change
            self.merged = not self.merged
        return self

    def forward(self, input: Tensor) -> Tensor:
        out = F.linear(input, self.weight, self.bias)
        return out if self.merged else out + input @ self.a.T @ self.b.T


class Caching(nn.Linear):
    """Keeps the sum of its weight for evaluation; its train() takes a position only."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        self.total: Tensor | None = None

    def train(self, mode, /):  # pyright: ignore
        nn.Linear.train(self, mode)
        self.total = None if mode else self.weight.sum().detach()
        return self

    def eval(self):  # pyright: ignore
        return self.train(False)

    def forward(self, input: Tensor) -> Tensor:
        total = self.weight.sum() if self.total is None else self.total
        return super().forward(input) + 0.1 * total.detach()


class Silent(nn.Sequential):
    """Its train() gives nothing back."""

    def train(self, mode: bool = True):  # pyright: ignore
        super().train(mode)


class HalfFrozen(nn.Sequential):
    """Its first part stays in evaluation mode, whatever it is told."""

    def train(self, mode: bool = True) -> HalfFrozen:
        super().train(mode)
        self[0].eval()
        return self


class Keeping(nn.Linear):
    """Keeps what it was given and what it made, in an attribute, a list and a count."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        self.last: Any = None
        self.all: list[Tensor] = []
        self.calls = 0

    def forward(self, input: Tensor) -> Tensor:
        self.last = super().forward(input)
        self.all.append(self.last)
        self.calls += 1
        return self.last


def old_weight_norm(inputs: int, outputs: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(inputs, outputs))


def old_spectral_norm(inputs: int, outputs: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.spectral_norm(nn.Linear(inputs, outputs))


def pruned(inputs: int, outputs: int) -> nn.Module:
    from torch.nn.utils import prune

    made = nn.Linear(inputs, outputs)
    prune.l1_unstructured(made, "weight", 0.5)
    return made


class Renormed(nn.Module):
    """A table whose rows a forward pass renormalizes in place, also in evaluation mode."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.table = nn.Embedding(5, inputs, max_norm=1.0)
        self.out = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + self.table((x[:, 0] > 0).long()))


class InstanceNormed(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm = nn.InstanceNorm1d(1, track_running_stats=True, affine=True)
        self.out = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x[:, None])[:, 0])


#: What may be in the middle of a model, by name.
MIDDLES: dict[str, Any] = {
    "lora": LoraLinear,
    "caching": Caching,
    "silent": lambda i, o: Silent(nn.Linear(i, o), nn.Dropout(0.5)),
    "silent lora": lambda i, o: Silent(LoraLinear(i, o)),
    "half frozen": lambda i, o: HalfFrozen(LoraLinear(i, i), nn.Linear(i, o)),
    "keeping": Keeping,
    "weight_norm": old_weight_norm,
    "parametrized weight_norm": lambda i, o: nn.utils.parametrizations.weight_norm(nn.Linear(i, o)),
    "spectral_norm": old_spectral_norm,
    "parametrized spectral_norm": lambda i, o: nn.utils.parametrizations.spectral_norm(
        nn.Linear(i, o)
    ),
    "pruned": pruned,
    "max_norm": Renormed,
    "instance norm": InstanceNormed,
}


class Around(nn.Module):
    """A block of every kind between two plain layers."""

    def __init__(self, middle: str):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.middle = MIDDLES[middle](WIDTH, WIDTH)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.tanh(self.middle(torch.tanh(self.first(x))))))


def state(model: nn.Module) -> dict[str, Any]:
    """All that must not change, tensors as bytes."""

    def plain(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.detach().clone().reshape(-1).view(torch.uint8).tolist()
        return [plain(y) for y in x] if isinstance(x, list) else x

    found: dict[str, Any] = {"model": [id(module) for module in model.modules()]}
    for name, module in model.named_modules():
        own = module.__dict__.items()
        found |= {
            f"{name}.{key}": plain(x)
            for key, x in own
            if isinstance(x, (Tensor, list, bool, int, float, type(None)))
        }
        found |= {f"{name}.{key}": plain(x) for key, x in module._buffers.items()}
    for name, p in model.named_parameters():
        found[name] = (id(p), p.data_ptr(), p.requires_grad, p.grad, plain(p))
    return found
