"""Learning coefficients by plain steps and by steps with momentum: values and effective draws.

A network of one hidden layer after some training on a + b mod 31, all of its samples in every step,
four chains. Times are of one effective draw; values are to be compared with those of small steps,
since what finite steps add is what differs. Step sizes are in units of one over the largest
curvature of the chains' energy at the weights, nbeta h + localization.
"""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F
from torch import nn

from geomfast.estimators.hessian import hessian_top_eigenvalues
from geomfast.estimators.llc import LLC, llc

P = 31
LOCALIZATION = 100.0
#: Step size times the largest curvature, and momentum.
STEPS = ((0.05, None), (0.2, None), (1.0, None), (0.5, 0.0), (1.0, 0.0), (2.0, 0.0), (1.0, 0.7))
RATIOS = {
    "an effective draw, momentum over plain steps": ("plain, lr a = 0.2", "momentum 0.0, lr a = 2"),
}


class Adder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(2 * P, 64)
        self.out = nn.Linear(64, P)

    def forward(self, pairs):
        return self.out(torch.relu(self.embed(pairs).sum(1)))


def losses(model, batch):
    pairs, sums = batch
    return F.cross_entropy(model(pairs), sums, reduction="none")


def trained(steps: int):
    torch.manual_seed(0)
    pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    sums = pairs.sum(1) % P
    pairs = pairs + torch.tensor([0, P])
    kept = torch.randperm(len(pairs))[: int(0.6 * len(pairs))]
    model, data = Adder(), (pairs[kept], sums[kept])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        losses(model, data).mean().backward()
        optimizer.step()
    return model, data


def named(lr: float, momentum: float | None) -> str:
    return f"{'plain' if momentum is None else f'momentum {momentum}'}, lr a = {lr:g}"


def bench_llc_momentum(benchmark, results, full, restore_threads):
    torch.set_num_threads(1)
    model, data = trained(1500 if full else 20)
    n = len(data[0])
    top = hessian_top_eigenvalues(model, losses, data).values[0].item()
    stiff = n / math.log(n) * top + LOCALIZATION
    draws, burn_in = (1500, 300) if full else (8, 2)

    def sampled(lr: float, momentum: float | None) -> LLC:
        # Small steps forget their beginning later.
        longer = 4 if full and lr < 0.1 else 1
        return llc(
            model, losses, data, lr=lr / stiff, momentum=momentum, localization=LOCALIZATION,
            chains=4, draws=longer * draws, burn_in=longer * burn_in, stacked=True,
        )  # fmt: skip

    seconds, notes = {}, {}
    for lr, momentum in STEPS:
        begin = time.process_time()
        found = sampled(lr, momentum)
        who = named(lr, momentum)
        seconds[who] = (time.process_time() - begin) / found.ess
        notes[who] = (
            f"{found.mean:.3f} +- {found.stderr:.3f}, {found.ess:.0f} effective of "
            f"{found.loss_trace[:, burn_in if lr >= 0.1 else 4 * burn_in :].numel()} draws; "
            f"{found.verdict}"
        )
    parameters = sum(p.numel() for p in model.parameters())
    name = f"llc of a network of {parameters:,} parameters, an effective draw"
    results.add(name, seconds, RATIOS, {}, curvature=f"{top:.4g}", samples=str(n), **notes)
    print("\n".join(f"  {who:<28} {note}" for who, note in notes.items()))
    benchmark.pedantic(lambda: sampled(*STEPS[1]) if not full else None, rounds=1)
