"""Breakthroughness and linearity of curves over scale and over steps (BIG-bench)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.population.curves import breakthroughness, improvement, linearity
from geomfast.analysis.trajectories import in_order, select
from geomfast.labels import size_in
from geomfast.testbed.models.scales import SCALES

#: Fewest points of a curve; the median of two differences is their mean.
LEAST_POINTS = 4
#: Flat curves with the errors of the points.
DRAWS = 400

COLUMNS = ["task", "axis", "run", "points", "improvement", "linearity", "linearity_noise"]
COLUMNS += ["breakthroughness", "breakthroughness_noise"]


def scaling(records: pd.DataFrame, *, measure: str = "accuracy", seed: int = 0) -> pd.DataFrame:
    """Linearity and breakthroughness of every task (Srivastava et al. 2022, arXiv:2206.04615).

    Both divide the improvement of a curve by a mean of its differences, and both are large for
    noise as well where there is no improvement: beside each stands what 39 of 40 flat curves with
    the same standard errors stay below.

    Args:
        records: behaviour, with the columns of :data:`geomfast.records.COLUMNS`.
        measure: a share.
        seed: of the draws.

    Returns:
        One row per task and curve with at least :data:`LEAST_POINTS` points: ``axis`` (``scale``:
        the last step that all runs have, smallest model first; or ``step``, of one ``run``),
        ``points``, ``improvement``, ``linearity``, ``breakthroughness``, and ``linearity_noise``
        and ``breakthroughness_noise`` (the 97.5% quantile over flat curves; NaN where an error is
        not known).
        A curve over scale needs names that tell sizes; of several seeds it is their mean.
    """
    rows = in_order(select(records, measure))
    generator = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for task, own in rows.groupby("task", sort=True):
        curves = dict(iter(own.groupby("run", sort=False)[["scale", "step", "value", "stderr"]]))
        shared = set.intersection(*(set(curve["step"]) for curve in curves.values()))
        if shared and len(curves) >= LEAST_POINTS:
            at = own[own["step"] == max(shared)]
            if all(name in SCALES or not math.isnan(size_in(name)) for name in at["scale"]):
                curve = at.groupby("scale", sort=False)[["value", "stderr"]].agg(
                    {"value": "mean", "stderr": lambda s: math.sqrt((s**2).sum()) / len(s)}
                )
                found += _of(str(task), "scale", "", curve, generator)
        for run, curve in sorted(curves.items()):
            found += _of(str(task), "step", str(run), curve, generator)
    return pd.DataFrame(found, columns=COLUMNS)


def _of(
    task: str, axis: str, run: str, curve: pd.DataFrame, generator: np.random.Generator
) -> list[dict[str, Any]]:
    values, spread = curve["value"].to_numpy(dtype=float), curve["stderr"].to_numpy(dtype=float)
    if len(values) < LEAST_POINTS:
        return []
    known = bool(np.isfinite(spread).all())
    flat = (spread if known else 0.0) * generator.standard_normal((DRAWS, len(values)))
    told: dict[str, Any] = {"task": task, "axis": axis, "run": run, "points": len(values)}
    told["improvement"] = float(improvement(values))
    for name, function in (("linearity", linearity), ("breakthroughness", breakthroughness)):
        # Breakthroughness may be infinite, which cannot be interpolated.
        most = np.quantile(function(flat), 0.975, method="inverted_cdf") if known else math.nan
        told |= {name: float(function(values)), f"{name}_noise": float(most)}
    return [told]
