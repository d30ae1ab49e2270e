"""Coarse test of early geometry: does it predict when task-levels emerge?

Early means before the first task-level of the run has emerged, so that what is predicted has
nowhere happened yet.  The geometry is RankMe of the final state.  Its value at initialisation
stands beside it, since what an untrained network shows has not been learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from geomfast.analysis.events import emergence
from geomfast.analysis.remember import once
from geomfast.analysis.trajectories import TRAJECTORY, in_order, select
from geomfast.records import FINAL

#: Fewest task-levels of a run, and of these fewest that emerged, for a correlation over them.
LEAST_TASK_LEVELS, LEAST_EMERGED = 6, 3

EARLY_COLUMNS = [*TRAJECTORY, "early_step", "initial", "early", "emerged", "censored"]
CORRELATION_COLUMNS = ["run", "scale", "seed", "geometry", "early_step", "rho", "low", "high"]
CORRELATION_COLUMNS += ["task_levels", "censored"]


@once
def early_geometry(
    records: pd.DataFrame,
    *,
    chance: Mapping[str, float] | None = None,
    events: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """RankMe before anything has emerged, and when each task-level then did.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        chance: exact-match chance by task-level name; 0 if absent.
        events: emergence by another rule, as :func:`geomfast.analysis.leads.leads` takes it.

    Returns:
        One row per run, scale, seed, task and level that has both: ``early_step`` (last
        checkpoint of RankMe before the first emergence in the run), ``initial`` and ``early``
        (RankMe of the final state at the first checkpoint and there), ``emerged`` (emergence
        step; infinity if it never emerged or is pending, which is later than all others and tied
        with its like) and ``censored``.  Runs without any emergence, or without a checkpoint
        before it, are left out.
    """
    emerged = emergence(records, chance=chance) if events is None else events
    emerged = emerged[[*TRAJECTORY, "step"]]  # other rules have columns of their own
    first = emerged.groupby("run", sort=False)["step"].min().rename("first")
    rank = select(records, "rankme", FINAL).merge(first, on="run")
    before = rank[rank["step"] < rank["first"]]
    ends = before.groupby(TRAJECTORY, sort=False).agg(
        early_step=("step", "last"), initial=("value", "first"), early=("value", "last")
    )
    table = emerged.merge(ends, on=TRAJECTORY)
    table["censored"] = table["step"].isna()
    table["emerged"] = table["step"].fillna(math.inf)
    return in_order(table[EARLY_COLUMNS])


def early_correlation(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rho over task-levels between early geometry and emergence step, run by run.

    Args:
        table: the rows of :func:`early_geometry`.

    Returns:
        One row per run and ``geometry`` (``early``, ``initial``) with at least
        :data:`LEAST_TASK_LEVELS` task-levels, of which :data:`LEAST_EMERGED` emerged: ``rho``
        (positive when a higher RankMe emerges later; ties share their mean rank, and those that
        never emerged share the last), ``low`` and ``high`` (95%, which takes task-levels for
        independent; Bonett and Wright 2000), ``task_levels``, and how many are ``censored``.
        NaN where all RankMe are equal.
    """
    found = []
    for (run, scale, seed), rows in table.groupby(["run", "scale", "seed"], sort=False):
        emerged = int((~rows["censored"]).sum())
        if len(rows) < LEAST_TASK_LEVELS or emerged < LEAST_EMERGED:
            continue
        when = stats.rankdata(rows["emerged"])
        for geometry in ("early", "initial"):
            rho = _correlation(stats.rankdata(rows[geometry]), when)
            row = [run, scale, seed, geometry, int(rows["early_step"].iloc[0]), rho]
            found.append([*row, *_interval(rho, len(rows)), len(rows), len(rows) - emerged])
    return pd.DataFrame(found, columns=CORRELATION_COLUMNS)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def _interval(rho: float, count: int) -> tuple[float, float]:
    if math.isnan(rho):
        return math.nan, math.nan
    if abs(rho) > 1.0 - 1e-12:
        return rho, rho
    half = float(stats.norm.ppf(0.975)) * math.sqrt((1.0 + rho**2 / 2.0) / (count - 3))
    centre = math.atanh(rho)
    return math.tanh(centre - half), math.tanh(centre + half)
