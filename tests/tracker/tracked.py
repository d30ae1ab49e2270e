"""A small network with dropout, and a training loop that is tracked or not."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import geomfast as gf

WIDTH, CLASSES = 12, 4


class Net(nn.Module):
    """Residual blocks, a norm, a head; batch normalisation has buffers that training moves."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_of_batch = nn.BatchNorm1d(WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(0.2)) for _ in range(2)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_of_batch(x)
        for inner in self.blocks:
            x = x + inner(x)
        return self.head(self.norm(x))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def batch(samples: int = 24, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, WIDTH, generator=generator)
    return x, torch.randint(0, CLASSES, (samples,), generator=generator)


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def train(
    steps: int = 20, *, first: int = 0, model: nn.Module | None = None, **tracked: Any
) -> tuple[dict[str, Any], gf.Tracker | None]:
    """All that training leaves behind, and the tracker.

    Args:
        steps: to the last one.
        first: step to go on from.
        model: to train; a new one when None.
        tracked: options of the tracker; without any there is none.
    """
    for seeding in (random.seed, np.random.seed, torch.manual_seed):
        seeding(7)
    model = model or net()
    x, y = batch(256, seed=2)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    tracker = None
    if tracked:
        tracker = gf.Tracker(model, loss_fn, batch(), **{"max_overhead": None, **tracked})
        tracker.step(first)
    for step in range(first + 1, steps + 1):
        # Every generator of the process is drawn from, as augmentations do.
        chosen = torch.randint(0, len(x), (8,)) + random.randrange(2) * np.random.randint(2)
        inputs, targets = x[chosen % len(x)], y[chosen % len(x)]
        loss = loss_fn(model, (inputs, targets)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if tracker is not None:
            tracker.step(step, loss=loss)
    if tracker is not None:
        tracker.close()
    left = {
        "weights": model.state_dict(),
        "gradients": [parameter.grad for parameter in model.parameters()],
        "optimiser": optimiser.state_dict()["state"],
        "mode": [module.training for module in model.modules()],
        "next": (torch.rand(3), np.random.rand(3), random.random()),
    }
    return left, tracker
