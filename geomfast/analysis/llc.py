"""Local learning coefficients along a run, and which of them to doubt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from geomfast.analysis.courses import COURSE, by_trajectory, course, medians
from geomfast.analysis.trajectories import TRAJECTORY, in_order, select
from geomfast.estimators.sampling.rules import (
    BOUND,
    HELD,
    LARGEST_LOCALIZATION_EFFECT,
    LARGEST_RHAT,
    LARGEST_STEP_BIAS,
    LEAST_ESS,
    localized,
    saturated,
)
from geomfast.records import MIXTURE

#: What a coefficient is doubted for, as the sampler's own verdict does.
DOUBTS = ("diverged", "still training", "step too large", "localization too weak")
DOUBTS += ("too few draws", "localization too strong")

_BESIDE = ("diverged", "rhat", "ess", "step_bias", "acceptance", "localization_least")
# With errors of their own.
_EFFECT, _DEGREE = "localization_effect", "degree"
_KEY = [*TRAJECTORY, "step"]


def llc_values(records: pd.DataFrame) -> pd.DataFrame:
    """Every coefficient with its diagnostics, and whether to doubt it.

    Args:
        records: the table of :func:`geomfast.records.load_records`.

    Returns:
        A row per cell and step: ``value`` (NaN where all chains diverged), ``stderr``, ``n``,
        ``diverged`` (chains), ``rhat``, ``ess``, ``step_bias`` (what steps would add were the loss
        quadratic), ``acceptance``, ``localization_least``, ``localization_effect`` with its
        ``localization_effect_stderr`` and ``degree`` with its ``degree_stderr`` (NaN in records
        from before they were recorded) and ``doubt``: one of :data:`DOUBTS`, "bound by
        localization" of a lower bound, or empty.
    """
    table = select(records, "llc")[[*_KEY, "value", "stderr", "n"]]
    for name in _BESIDE:
        beside = select(records, f"llc_{name}").rename(columns={"value": name})
        # Only a count of chains is there where no chain is left to say more.
        how = "outer" if name == "diverged" else "left"
        table = table.merge(beside[[*_KEY, name]], on=_KEY, how=how)
    for name in (_EFFECT, _DEGREE):
        names = {"value": name, "stderr": f"{name}_stderr"}
        beside = select(records, f"llc_{name}").rename(columns=names)
        table = table.merge(beside[[*_KEY, *names.values()]], on=_KEY, how="left")
    table = in_order(table.sort_values("step", kind="stable"))
    return table.assign(doubt=[_doubt(row) for row in table.to_dict("records")])


def _doubt(row: Mapping[Any, Any]) -> str:
    value, stderr, bias = row["value"], row["stderr"], row["step_bias"]
    if math.isnan(value) or row["diverged"] > 0:
        return "diverged"
    if value < -2.0 * stderr:
        return "still training"
    if bias > LARGEST_STEP_BIAS * abs(value) and not bias <= stderr:
        return "step too large"
    if saturated(row[_DEGREE], row[f"{_DEGREE}_stderr"]):
        return "localization too weak"
    if not (row["rhat"] <= LARGEST_RHAT and row["ess"] >= LEAST_ESS):
        return "too few draws"
    error = row[f"{_EFFECT}_stderr"]
    if localized(row[_EFFECT], error):
        return BOUND if row[_EFFECT] > 0 else "localization too strong"
    known = error <= LARGEST_LOCALIZATION_EFFECT
    if not known and row["localization_least"] > HELD:
        return BOUND
    return ""


def beyond_doubt(records: pd.DataFrame) -> pd.DataFrame:
    """The records without coefficients that are in doubt; lower bounds stay.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
    """
    values = llc_values(records)
    good = pd.MultiIndex.from_frame(values.loc[~values["doubt"].isin(DOUBTS), _KEY])
    keys = pd.MultiIndex.from_frame(records[_KEY])
    return records[(records["measure"] != "llc") | keys.isin(good)]


def llc(records: pd.DataFrame) -> pd.DataFrame:
    """First, largest and last coefficient of every task-level, and of the mixture.

    Args:
        records: the table of :func:`geomfast.records.load_records`.

    Returns:
        A row per cell, the mixture's with an empty task and level 0: the columns of
        :func:`geomfast.analysis.courses.course`, and how many checkpoints' values are
        ``doubtful`` or lost all chains (``diverged``); those still count in the others, as far as
        there is a value.
    """
    found = []
    for cell, rows in by_trajectory(llc_values(records)):
        sampled = rows[rows["value"].notna()]
        doubts = {"doubtful": int(rows["doubt"].isin(DOUBTS).sum())}
        found.append(cell | course(sampled) | doubts | {"diverged": len(rows) - len(sampled)})
    return in_order(pd.DataFrame(found, columns=[*TRAJECTORY, *COURSE, "doubtful", "diverged"]))


def llc_summary(records: pd.DataFrame) -> dict[str, Any]:
    """The mixture's coefficient, median over runs, and how many of all values to doubt.

    Returns:
        Empty where none was measured; else ``mixture`` (``final``, ``stderr``, ``largest``,
        ``largest_step``, ``n`` runs), ``values``, ``bounds`` (how many are lower bounds) and
        ``doubts`` (how many for each reason).
    """
    values = llc_values(records)
    if values.empty:
        return {}
    table = llc(records)
    whole = table[(table["task"] == MIXTURE[0]) & (table["level"] == MIXTURE[1])]
    return {
        "mixture": medians(whole, "final", "stderr", "largest", "largest_step"),
        "values": len(values),
        "bounds": int((values["doubt"] == BOUND).sum()),
        "doubts": {name: int((values["doubt"] == name).sum()) for name in DOUBTS},
    }
