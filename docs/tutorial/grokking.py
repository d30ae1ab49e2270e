# %% [markdown]
# # Grokking, from zero to a finding
#
# A small network learns addition modulo 53 from half of all pairs. It fits those pairs within a
# few dozen steps, and gets the other half wrong. Hundreds of steps later the other half becomes
# right too. This is grokking ([Power et al. 2022](https://arxiv.org/abs/2201.02177)). On this
# page we train it, watch its geometry with a tracker, and end with one sentence that we can
# defend.
#
# ## The task
#
# All 53 x 53 pairs, in random order: the first half is for training, 200 of the rest are the
# fixed samples that every measurement uses.

# %%
import os

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn

import geomfast as gf

STEPS = int(os.environ.get("TUTORIAL_STEPS", 900))
SEEDS = range(int(os.environ.get("TUTORIAL_SEEDS", 3)))
P = 53

torch.set_num_threads(1)
pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))
sums = pairs.sum(1) % P
order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
train, test = order[: len(order) // 2], order[len(order) // 2 :]
probe = pairs[test[:200]], sums[test[:200]]
print(len(train), "pairs for training,", len(test), "held out")

# %% [markdown]
# ## The model, and its loss for each sample
#
# geomfast needs one loss for each sample, not their mean: `reduction="none"`.


# %%
class Adder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(P, 64)
        self.hidden = nn.Sequential(nn.Linear(128, 128), nn.ReLU())
        self.head = nn.Linear(128, P)

    def forward(self, x):
        return self.head(self.hidden(self.embed(x).flatten(1)))


def loss_fn(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, reduction="none")


@torch.no_grad()
def accuracy(model, chosen):
    return (model(pairs[chosen]).argmax(1) == sums[chosen]).double().mean().item()


# %% [markdown]
# ## Training, with a tracker
#
# The tracker measures the untrained network and then every 20 steps. The two accuracies are
# numbers of our own, and are recorded beside the measures. `max_overhead=None` takes every
# measurement that is due: this run is short, and we want all of them. Each seed is a run of its
# own in the same folder.


# %%
def trained(seed):
    torch.manual_seed(seed)
    model = Adder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.98), weight_decay=1.0)
    tracker = gf.Tracker(
        model,
        loss_fn,
        probe,
        measures=("rankme", "fisher_rank", "hessian_top"),
        layers=["hidden", "head"],  # "block 1" and "final" in the records
        every=20,
        out="out/grokking",
        run=f"seed {seed}",
        seed=seed,
        max_overhead=None,
    )
    tracker.step(0)
    for step in range(1, STEPS + 1):
        loss = loss_fn(model, (pairs[train], sums[train])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        numbers = {}
        if step % 20 == 0:
            numbers = {
                "train_accuracy": accuracy(model, train),
                "test_accuracy": accuracy(model, test),
            }
        tracker.step(step, loss=loss, **numbers)
    tracker.close()
    return model


models = [trained(seed) for seed in SEEDS]

# %% [markdown]
# ## What was recorded
#
# One row for each value. `geomfast report out/grokking` would draw all of it; here we make the
# few curves that we want ourselves.

# %%
records = gf.load_records("out/grokking")
print(records.groupby(["measure", "layer"]).size().to_string())

# %% [markdown]
# ## The curves


# %%
def curve(name, layer=""):
    """Steps down, runs across."""
    chosen = records[(records["measure"] == name) & (records["layer"] == layer)]
    return chosen.pivot(index="step", columns="run", values="value")


panels = {
    "Accuracy (dashed: training)": curve("test_accuracy"),
    "Held-out loss, nats": curve("loss"),
    "RankMe of the hidden layer": curve("rankme", "block 1"),
    "RankMe of the logits": curve("rankme", "final"),
    "Fisher rank": curve("fisher_rank"),
    "Largest Hessian eigenvalue": curve("hessian_top"),
}
figure, axes = plt.subplots(3, 2, figsize=(9, 8), sharex=True, layout="constrained")
for axis, (title, values) in zip(axes.flat, panels.items(), strict=True):
    for run, color in zip(values, ["#0072B2", "#E69F00", "#009E73"], strict=False):
        axis.plot(values[run], color=color, label=run)
    axis.set_title(title, loc="left", fontsize=10)
axes[0, 0].plot(curve("train_accuracy"), "--", color="#767676", linewidth=1)
axes[0, 0].legend(fontsize=8)
for axis in axes[-1]:
    axis.set_xlabel("optimiser step")
figure.suptitle("Held-out pairs are learned late; RankMe turns before", fontsize=11)
figure.savefig(
    "Accuracy, loss, RankMe, Fisher rank and curvature of three seeds by step.png", dpi=110
)

# %% [markdown]
# What to see: training accuracy is 1 from step 40 or so. Held-out accuracy stays near zero for a
# hundred steps and more, then rises. RankMe of both layers first rises, then turns and falls for
# the rest of the run. The Fisher rank falls last.
#
# ## From curves to a claim
#
# Curves invite stories. Write down a rule first, then let it speak. Ours: the **turn** of a
# measure is the step of its highest value after step 0; **half** is the first measured step at
# which half of the held-out pairs are right.

# %%
accuracy_held_out, loss_held_out = curve("test_accuracy"), curve("loss")
table = pd.DataFrame(
    {
        "trained (99%)": (curve("train_accuracy") >= 0.99).idxmax(),
        "loss turns": loss_held_out.idxmax(),
        "hidden RankMe turns": curve("rankme", "block 1").drop(index=0).idxmax(),
        "logits RankMe turns": curve("rankme", "final").drop(index=0).idxmax(),
        "10% held out": (accuracy_held_out >= 0.1).idxmax(),
        "half held out": (accuracy_held_out >= 0.5).idxmax(),
    }
)
print(table.T.to_string())

# %% [markdown]
# ## What not to believe
#
# - **The Fisher rank.** At first it is 185 of at most 200: bounded by the samples. Late in the
#   run, once the held-out loss is near zero, a few samples with large gradients decide it: see
#   [when not to trust it](../measures/fisher_rank.md#when-not-to-trust-it). Its fall says that
#   most samples are fitted, and nothing more.
# - **Three seeds and one network.** They show that an order of events is possible and not rare.
#   They say nothing about other tasks.
# - **"RankMe predicts grokking."** Look at the second row: the held-out loss turns long before
#   RankMe does. With that loss at hand, no geometry is needed to see that something is under way.
#
# ## The finding
#
# *In three of three seeds RankMe of the hidden layer stops rising and begins to fall after the
# training pairs are fitted (step 40) and before a tenth of the held-out pairs are right: 40 to
# 180 steps before, and 180 to 260 steps before half of them are. The held-out loss turns earlier
# still, at step 60.*
#
# So a falling rank of the representation comes before generalisation here, and is not its first
# sign.
#
# ## Where to go on
#
# - `geomfast report out/grokking` draws every measure of every run as one page.
# - Change one thing, such as `weight_decay` or `P`, and see whether the order stays.
# - Measure the samples of the training set too: `data={"train": ..., "held out": ...}`.
