"""Train a network of one hidden layer on a + b mod 113 until it groks, and watch its geometry.

30% of the pairs are trained on, by full-batch AdamW with weight decay 3 (Power et al. 2022,
arXiv:2201.02177; Nanda et al. 2023, arXiv:2301.05217, have 1; with 3 the transition is at 4,000 to
8,000 steps, with 2 at 6,000 to 13,000, with 1 it begins at 10,000). Everything is measured on 1,000
of the training pairs, with geomfast's defaults: step sizes and localizations of the learning
coefficient are found by themselves at each checkpoint. Its chains take all of these samples in each
step, with which it is known what localization takes.

OMP_NUM_THREADS=1 python experiments/grokking-cpu/track.py out/grokking
geomfast report out/grokking
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn

import geomfast as gf

P, STEPS, EVERY, SAMPLES, WEIGHT_DECAY = 113, 12_000, 200, 1000, 3.0
MEASURES = ("rankme", "fisher_rank", "gradient_covariance_rank", "hessian_top", "llc")


class Adder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(2 * P, 128)
        self.hidden = nn.Linear(128, 256)
        self.out = nn.Linear(256, P)

    def forward(self, pairs):
        return self.out(torch.relu(self.hidden(self.embed(pairs).sum(1))))


def losses(model, batch):
    pairs, sums = batch
    return F.cross_entropy(model(pairs), sums, reduction="none")


def main(out: str) -> None:
    torch.manual_seed(0)
    pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    sums = pairs.sum(1) % P
    pairs = pairs + torch.tensor([0, P])
    order = torch.randperm(len(pairs))
    train, test = order.split([int(0.3 * len(pairs)), len(pairs) - int(0.3 * len(pairs))])
    data, held_out = (pairs[train], sums[train]), (pairs[test], sums[test])
    model = Adder()
    how = {"lr": 1e-3, "weight_decay": WEIGHT_DECAY, "betas": (0.9, 0.98)}
    optimizer = torch.optim.AdamW(model.parameters(), **how)
    samples = (data[0][:SAMPLES], data[1][:SAMPLES])
    tracker = gf.Tracker(
        model,
        losses,
        samples,
        measures=MEASURES,
        layers=["embed", "hidden", "out"],
        out=out,
        every=EVERY,
        max_overhead=None,
        total_steps=STEPS,
        llc={"batch_size": None},
    )
    for step in range(STEPS + 1):
        loss = losses(model, data).mean()
        numbers = {}
        if step % EVERY == 0:
            with torch.no_grad():
                for name, (x, y) in {"train": data, "test": held_out}.items():
                    numbers[f"accuracy_{name}"] = (model(x).argmax(1) == y).float().mean().item()
            print(f"step {step}: loss {loss.item():.4f}, {numbers}", flush=True)
        tracker.step(step, loss=loss.item(), **numbers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tracker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
