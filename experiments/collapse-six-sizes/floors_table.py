"""The table of what floors depend on, from the runs of what_floors_depend_on.py.

    python experiments/collapse-six-sizes/floors_table.py OUT experiments/collapse-six-sizes/tables

An effect is a factor: the geometric mean, over ten task-levels, of a floor over that of
the usual run of the same scale and seed. It counts as more than the seeds' doing where it goes the
same way in every seed and is larger than two seeds of the usual run differ by.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd

USUAL = "usual"
CELL = ["task", "level"]


def read(out: Path) -> pd.DataFrame:
    """A row per scale, seed, way of training or reading, and task-level."""
    rows = []
    for path in sorted((out / "runs").glob("*.json")):
        run = json.loads(path.read_text())
        for found in run["floors"]:
            read_so = found["reading"]
            name = run["name"] if read_so == USUAL else f"read: {read_so}"
            rows.append(
                {
                    **{"scale": run["scale"], "seed": run["seed"], "changed": name},
                    **{key: found[key] for key in (*CELL, "initial", "floor", "step", "final")},
                    "share": (found["shares"] or [math.nan])[0],
                    "loss": run["loss"],
                }
            )
    return pd.DataFrame(rows)


def effects(floors: pd.DataFrame) -> pd.DataFrame:
    """A row per scale and change, with its effect in every seed."""
    floors = floors.assign(log=np.log(floors["floor"]))
    usual = floors[floors["changed"] == USUAL].set_index(["scale", "seed", *CELL])["log"]
    rows = []
    for (scale, name), its in floors.groupby(["scale", "changed"], sort=False):
        own = its.set_index(["scale", "seed", *CELL])["log"]
        factor = (own - usual.reindex(own.index)).groupby("seed").mean()
        by_seed = usual.loc[scale].groupby("seed").mean()
        apart = float(by_seed.max() - by_seed.min())
        same = bool((factor > 0).all() or (factor < 0).all())
        mod = its[(its["task"] == "MOD") & (its["level"] == 1)].set_index("seed")["floor"]
        rows.append(
            {
                "scale": scale,
                "changed": name,
                "seeds": len(factor),
                "MOD-1": ", ".join(f"{value:.2f}" for value in mod.sort_index()),
                "mean floor": math.exp(own.mean()),
                "factor": math.exp(factor.mean()),
                "factor by seed": ", ".join(f"{math.exp(f):.2f}" for f in factor),
                "seeds apart": math.exp(apart),
                "beyond seeds": same and len(factor) > 1 and abs(factor.mean()) > apart,
                "floor step": float(its["step"].median()),
                "loss": its["loss"].mean(),
            }
        )
    return pd.DataFrame(rows)


def across(floors: pd.DataFrame) -> pd.DataFrame:
    """By change: how far the scales' floors lie apart, as a factor of the first scale's."""
    each = floors.assign(log=np.log(floors["floor"]))
    mean = each.pivot_table(index="changed", columns="scale", values="log", sort=False)
    first = floors["scale"].iloc[0]
    return np.exp(mean.sub(mean[first], axis=0)).dropna(axis=1, how="all").reset_index()


def expected(floors: pd.DataFrame) -> pd.DataFrame:
    """RankMe of one direction with a tail: exp(h(q)) k^q, q the tail's share and k its own rank.

    From the floor and the first singular value's share follows k, which is what the tail alone has.
    """
    rows = floors[floors["share"].notna() & floors["changed"].eq(USUAL)]
    tail = 1.0 - rows["share"]
    mixing = -(tail * np.log(tail) + rows["share"] * np.log(rows["share"]))
    rank = np.exp((np.log(rows["floor"]) - mixing) / tail)
    found = rows.assign(tail_share=tail, two_groups=np.exp(mixing), tail_rank=rank)
    keys = ["scale", *CELL]
    numbers = ["floor", "share", "tail_share", "two_groups", "tail_rank"]
    return found.groupby(keys, sort=False)[numbers].mean().reset_index()


def main(out: str, tables: str) -> None:
    floors, folder = read(Path(out)), Path(tables)
    order = {"nano": 0, "micro": 1}
    floors = floors.sort_values(
        ["scale", "changed", "seed"], key=lambda c: c.map(order) if c.name == "scale" else c
    )
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "floors_each": floors,
        "floors_effects": effects(floors),
        "floors_across": across(floors),
        "floors_expected": expected(floors),
    }
    for name, table in made.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.4g")
        if name != "floors_each":
            print(f"\n{name}\n{table.round(3).to_string(index=False)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
