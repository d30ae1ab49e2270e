"""What figures and the page plot, and the words that say of what it is."""

from __future__ import annotations

import numpy as np
import pandas as pd

from geomfast.analysis.trajectories import in_order, select, stretches
from geomfast.records import layer_depth

#: By task and level, and then by layer: steps and values.
Curves = dict[tuple[str, int], dict[str, tuple[np.ndarray, np.ndarray]]]


def curves(run: pd.DataFrame, measure: str) -> Curves:
    """Steps and values of every layer, by task and level, layers from first to last."""
    found: Curves = {}
    rows = in_order(select(run, measure))
    steps, values = rows["step"].to_numpy(), rows["value"].to_numpy(dtype=float)
    for (task, level, layer), at in stretches(rows, ["task", "level", "layer"]):
        found.setdefault((task, level), {})[layer] = (steps[at], values[at])
    return {
        cell: dict(sorted(layers.items(), key=lambda item: layer_depth(item[0])))
        for cell, layers in found.items()
    }


def caption(run: pd.DataFrame) -> str:
    """Where the numbers of a figure come from, in one line."""
    name, checkpoints = run["run"].iloc[0], run["step"].nunique()
    samples = samples_of(run[run["measure"] == "rankme"]) or "?"
    return f"{name}; RankMe of n = {samples} samples per task-level; {checkpoints} checkpoints"


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Of values and of their errors' ends, by step: ``middle``, ``low`` and ``high``."""
    ends = pd.DataFrame(
        {
            "step": rows["step"],
            "middle": rows["value"],
            "low": rows["value"] - rows["stderr"].fillna(0.0),
            "high": rows["value"] + rows["stderr"].fillna(0.0),
        }
    )
    return ends.groupby("step").median()


def samples_of(rows: pd.DataFrame) -> str:
    """The n of some records as text."""
    return ", ".join(f"{n:,}" for n in sorted({int(n) for n in rows["n"].dropna().unique()}))


def runs_text(cells: pd.DataFrame) -> str:
    """Which runs a figure shows: *15 runs (5 scales, 3 seeds)*."""
    runs, scales, seeds = (cells[name].nunique() for name in ("run", "scale", "seed"))
    parts = [f"{scales} scale{'s' * (scales > 1)}", f"{seeds} seed{'s' * (seeds > 1)}"]
    return f"{runs} run{'s' * (runs > 1)} ({', '.join(parts)})"
