"""What the figures and the page plot: curves by task-level, and the line that says from where."""

from __future__ import annotations

from typing import cast

import numpy as np
import pandas as pd

from geomfast.analysis.trajectories import in_order, select
from geomfast.records import layer_depth

#: By task and level, and then by layer: steps and values.
Curves = dict[tuple[str, int], dict[str, tuple[np.ndarray, np.ndarray]]]


def curves(run: pd.DataFrame, measure: str) -> Curves:
    """Steps and values of every layer, by task and level, layers from first to last."""
    found: Curves = {}
    rows = in_order(select(run, measure))
    for key, part in rows.groupby(["task", "level", "layer"], sort=False):
        task, level, layer = cast("tuple[str, int, str]", key)
        pair = (part["step"].to_numpy(), part["value"].to_numpy(dtype=float))
        found.setdefault((task, level), {})[layer] = pair
    return {
        cell: dict(sorted(layers.items(), key=lambda item: layer_depth(item[0])))
        for cell, layers in found.items()
    }


def caption(run: pd.DataFrame) -> str:
    """Where the numbers of a figure come from, in one line."""
    rows = run[run["measure"] == "rankme"]
    name = str(run["run"].iloc[0])
    n = sorted(set(rows["n"].dropna().astype(int)))
    samples = ", ".join(str(v) for v in n) or "?"
    checkpoints = int(run["step"].nunique())
    return f"{name}; RankMe of n = {samples} samples per task-level; {checkpoints} checkpoints"
