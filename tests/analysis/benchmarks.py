"""Records of benchmarks over training: planted curves, and guesses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from geomfast.analysis.evaluations import (
    rises,
)
from geomfast.records import COLUMNS

#: Those of Pythia that the harness was run on.
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 3000, *range(13_000, 144_000, 10_000))
N = 1000
CHANCE = 0.25


def table(
    curves: Mapping[str, Sequence[float]],
    *,
    steps: Sequence[int] = STEPS,
    run: str = "m-70m",
    scale: str = "70m",
    n: int = N,
    stderr: float | None = None,
    measure: str = "accuracy",
    seed: int = 0,
) -> pd.DataFrame:
    """Records of behaviour: value by task and step, with errors of independent samples."""
    values = np.array([list(map(float, curve)) for curve in curves.values()])
    spread = np.sqrt(values * (1 - values) / (n - 1)) if stderr is None else stderr + 0 * values
    columns: dict[str, Any] = dict.fromkeys(name for name, _, _ in COLUMNS)
    columns |= {"run": run, "scale": scale, "seed": seed, "level": 1, "layer": "", "n": n}
    columns |= {"measure": measure, "settings": "s", "task": np.repeat(list(curves), len(steps))}
    columns |= {"step": np.tile(steps, len(curves)), "value": values.ravel()}
    return pd.DataFrame(columns | {"stderr": spread.ravel()})


def risen(curve: Sequence[float], *, steps: Sequence[int] = STEPS, **how: Any) -> dict[str, Any]:
    options = {k: how.pop(k) for k in ("share", "errors", "persistence", "from_first") if k in how}
    chance = {"t": how.pop("chance", CHANCE)}
    found = rises(table({"t": curve}, steps=steps, **how), chance=chance, **options)
    return found.iloc[0].to_dict()


def after(at: int, low: float = CHANCE, high: float = 0.6, length: int = len(STEPS)) -> list[float]:
    return [low if i < at else high for i in range(length)]


def guesses(tasks: int, n: int, *, same: float | None = None, seed: int = 0) -> pd.DataFrame:
    """Tasks at chance: new questions at every checkpoint, or the same, answered alike."""
    generator = np.random.default_rng(seed)
    if same is None:
        values = generator.binomial(n, CHANCE, (tasks, len(STEPS))) / n
    else:
        liking = generator.standard_normal((tasks, n))
        shares = []
        for _ in STEPS:
            shares.append((liking < stats.norm.ppf(CHANCE)).mean(axis=1))
            new = generator.standard_normal(liking.shape)
            liking = same * liking + math.sqrt(1 - same**2) * new
        values = np.array(shares).T
    return table({f"t{i}": row for i, row in enumerate(values)}, n=n)
