"""Curves for figures and the page, and the words that say where they come from."""

from __future__ import annotations

import numpy as np
import pandas as pd

from geomfast.analysis.trajectories import in_order, select, stretches
from geomfast.records import layer_depth

#: Mark of a coefficient in doubt, and its explanation.
DOUBT = "?"
DOUBT_KEY = f"{DOUBT}: a coefficient in doubt by its sampler's diagnostics"
#: Mark of a lower bound, and its explanation.
LEAST = "≥"
LEAST_KEY = f"{LEAST}: a lower bound, as localization holds the chains"
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
    """Run, samples and checkpoints of a figure, in one line."""
    name, checkpoints = run["run"].iloc[0], run["step"].nunique()
    samples = samples_of(run[run["measure"] == "rankme"]) or "?"
    return f"{name}; RankMe of n = {samples} samples per task-level; {checkpoints} checkpoints"


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians by step of values (``middle``) and the ends of their errors (``low``, ``high``)."""
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
    """The numbers of samples of some records, as text."""
    return ", ".join(f"{n:,}" for n in sorted({int(n) for n in rows["n"].dropna().unique()}))


def runs_text(cells: pd.DataFrame) -> str:
    """The runs of a figure: *15 runs (5 scales, 3 seeds)*."""
    runs, scales, seeds = (cells[name].nunique() for name in ("run", "scale", "seed"))
    parts = [f"{scales} scale{'s' * (scales > 1)}", f"{seeds} seed{'s' * (seeds > 1)}"]
    return f"{runs} run{'s' * (runs > 1)} ({', '.join(parts)})"


def loss_unit(records: pd.DataFrame) -> str:
    """The unit of the loss, which :func:`geomfast.report.data.read` notes of the records."""
    return records.attrs.get("loss_unit", "nats per token")
