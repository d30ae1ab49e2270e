"""Is there a setting in which seeds form two groups? Every point of some populations, judged alike.

Prints and writes a row for each point and length beyond training: how many succeed, the dip test
with its p-value corrected for all rows (Holm), and what two groups gain over one on seeds left out.

    python experiments/random-scaling-cpu/search.py TABLE.csv OUT OUT...
"""

import sys
from pathlib import Path

import pandas as pd

from geomfast.analysis.population import from_records, modes, summary
from geomfast.analysis.population.summary import holm
from geomfast.records import load_records
from geomfast.runs.settings_file import read_settings

COLUMNS = ["out", "scale", "length", "seeds", "success", "success_low", "success_high"]
COLUMNS += ["given_success", "mean", "spread_dip_p", "loss_dip_p", "gain", "stderr", "two"]
COLUMNS += ["share", "low", "high", "at_both_ends", "corrected_p"]


def judged(out: Path) -> pd.DataFrame:
    """A row for each point of a population and length beyond its training."""
    content = read_settings(out / "settings.json", "population")
    shared, recipes = content["settings"], content["recipes"]
    table = from_records(load_records(out), last_step=shared["steps"])
    rows = []
    for length, members in table.groupby("length"):
        found = summary(members).merge(modes(members).drop(columns=["seeds", "reason"]), on="scale")
        longest = [recipes[at].get("train_length", shared["train_length"]) for at in found["scale"]]
        rows.append(found.assign(length=length)[[length > most for most in longest]])
    return pd.concat(rows, ignore_index=True).assign(out=out.name)


def main(path: str, *outs: str) -> None:
    found = pd.concat(map(judged, map(Path, outs)), ignore_index=True)
    found["corrected_p"] = holm(found["spread_dip_p"].to_numpy(dtype=float))
    found = found[COLUMNS].sort_values("spread_dip_p", ignore_index=True)
    found.to_csv(path, index=False, float_format="%.4g")
    with pd.option_context("display.width", 200, "display.max_columns", 30, "display.precision", 3):
        print(found.head(30).to_string(index=False))
    tested = found["spread_dip_p"].notna()
    print(f"{tested.sum()} tested; p < 0.05 in {(found['spread_dip_p'] < 0.05).sum()}, after "
          f"correction in {(found['corrected_p'] < 0.05).sum()}; two groups foretell better in "
          f"{found['two'].sum()}")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
