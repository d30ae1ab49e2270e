"""Draw what track.py has recorded.

python experiments/track-gpt2-cpu/picture.py out/track-gpt2 experiments/track-gpt2-cpu/figures
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import geomfast as gf

#: Steps up to which the axis is linear, so that the untrained network is on it.
LINEAR = 8


def panel(axes, records: pd.DataFrame, title: str, unit: str, by: str = "layer") -> None:
    """One line per layer or measure, with its standard error where there is one."""
    kinds = list(dict.fromkeys(records[by]))
    colours = plt.get_cmap("viridis")
    for i, kind in enumerate(kinds):
        rows = records[records[by] == kind].sort_values("step")
        colour = colours(0.85 * i / max(len(kinds) - 1, 1))
        axes.plot(rows["step"], rows["value"], ".-", ms=4, lw=1, color=colour, label=kind or None)
        low, high = rows["value"] - rows["stderr"], rows["value"] + rows["stderr"]
        axes.fill_between(rows["step"], low, high, color=colour, alpha=0.2, lw=0)
    axes.set_xscale("symlog", linthresh=LINEAR)
    axes.set_xlim(-0.3, None)
    axes.set_xticks([0, 10, 100, 1000], ["0", "10", "100", "1000"])
    axes.set(title=title, xlabel="optimiser step", ylabel=unit)
    if len(kinds) > 1:
        axes.legend(frameon=False, fontsize=8)


def main(out: str, folder: str) -> None:
    records = gf.load_records(out)
    named = {name: rows for name, rows in records.groupby("measure")}
    figure, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained")
    panel(a, named["rankme"], "RankMe by layer", "effective dimensions")
    panel(b, named["fisher_rank"], "Fisher effective rank", "effective dimensions")
    losses = pd.concat([named["train_loss"], named["loss"]])
    losses = losses.replace({"measure": {"train_loss": "batch", "loss": "held-out samples"}})
    panel(c, losses, "Loss", "nats per byte", by="measure")
    share = named["tracker_overhead"].assign(value=lambda rows: 100 * rows["value"])
    panel(d, share, "Time that measuring has added so far", "% of the run's time")
    d.set_yscale("log")
    d.axhline(5, color="0.4", lw=1, ls="--")
    d.text(0, 5.5, "max_overhead", color="0.4", fontsize=8)
    n = int(named["rankme"]["n"].max())
    figure.suptitle(f"{records['scale'][0]} from scratch; n = {n} held-out samples", fontsize=11)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "svg"):
        figure.savefig(Path(folder) / f"track.{suffix}", dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
