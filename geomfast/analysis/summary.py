"""The numbers a reader looks at first, out of one table of records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.collapse import collapse
from geomfast.analysis.events import emergence
from geomfast.analysis.hessian import hessian, hessian_summary
from geomfast.analysis.intervals import mean_over_seeds
from geomfast.analysis.llc import llc_summary
from geomfast.analysis.others import other_measures, other_summary
from geomfast.analysis.rates import check_one_rate
from geomfast.analysis.topdown import top_down, top_down_summary
from geomfast.analysis.trajectories import TRAJECTORY, in_order
from geomfast.analysis.truncation import truncation, truncation_summary

#: Exact-match accuracy from which a task-level counts as solved.
SOLVED = 0.95


def cells(
    records: pd.DataFrame, *, chance: Mapping[str, float] | None = None, layer: str = "final"
) -> pd.DataFrame:
    """Collapse and emergence side by side, a row per run and task-level.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        chance: exact-match chance by task-level name.
        layer: the layer whose RankMe is taken.

    Returns:
        The columns of :func:`collapse` and, from :func:`emergence`, ``emerged_step``,
        ``final_accuracy``, ``best_accuracy``, ``pending``, ``logprob_step`` and
        ``final_logprob``; NaN where a measure is missing.
    """
    table = collapse(records, layer=layer).drop(columns=["layer", "checkpoints"])
    names = {"step": "emerged_step", "final": "final_accuracy", "best": "best_accuracy"}
    accuracy = emergence(records, chance=chance).rename(columns=names)
    names = {"step": "logprob_step", "final": "final_logprob"}
    logprob = emergence(records, measure="answer_logprob", chance=chance)
    logprob = logprob[[*TRAJECTORY, *names]].rename(columns=names)
    for one in (accuracy.drop(columns=["after", "checkpoints"]), logprob):
        table = table.merge(one, on=TRAJECTORY, how="outer")
    for flag in ("collapsed", "recovered", "exceeded", "pending"):
        table[flag] = table[flag].eq(True)
    return in_order(table)


def mod_floor(table: pd.DataFrame, *, level: int = 1) -> dict[str, Any]:
    """Floor of the final state's RankMe on modular addition, over runs.

    Args:
        table: the rows of :func:`cells` or of :func:`collapse` for one layer.
        level: difficulty level.

    Returns:
        ``value`` (mean over runs), ``low`` and ``high`` (of
        :func:`geomfast.analysis.intervals.mean_over_seeds`, NaN below two runs), ``n`` (runs) and
        ``by_scale`` (mean per scale).
    """
    rows = table[(table["task"] == "MOD") & (table["level"] == level) & table["floor"].notna()]
    found = mean_over_seeds(rows["floor"].to_numpy(dtype=float), rows["scale"].tolist(), least=1.0)
    by_scale = rows.groupby("scale", sort=False)["floor"].mean()
    each = {str(scale): float(value) for scale, value in by_scale.items()}
    interval = {"value": found.value, "low": found.low, "high": found.high}
    return interval | {"n": len(rows), "by_scale": each}


def summarise(records: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """Key numbers over all runs; every count says of how many.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        table: the rows of :func:`cells` for the same records.

    Returns:
        A dict of plain numbers and dicts, ready for JSON but for NaN.

    Raises:
        SeveralRates: a scale has runs at several learning rates.
    """
    check_one_rate(records)
    measured = table[table["floor"].notna()]
    behaved = table[table["final_accuracy"].notna()]
    both = behaved[behaved["emerged_step"].notna() & behaved["collapsed"]]
    by_level = top_down(records)
    by_task = top_down(records, by_task=True)
    return {
        "runs": int(records["run"].nunique()),
        "task_levels": len(records.loc[records["level"] > 0, ["task", "level"]].drop_duplicates()),
        "checkpoints": int(records.groupby("run")["step"].nunique().max()),
        "last_step": int(records["step"].max()),
        "mod_floor": mod_floor(table),
        "collapsed": _count(measured["collapsed"]),
        "recovered": _count(measured["recovered"]),
        "exceeded": _count(measured["exceeded"]),
        "emerged": _count(behaved["emerged_step"].notna()),
        "emerged_logprob": _count(
            table.loc[table["final_logprob"].notna(), "logprob_step"].notna()
        ),
        "solved": _count(behaved["final_accuracy"] >= SOLVED) | {"threshold": SOLVED},
        "floor_before_emergence": _count(both["floor_step"] < both["emerged_step"]),
        "top_down_task_levels": top_down_summary(by_level),
        "top_down_tasks": top_down_summary(by_task),
        "top_down_tasks_4_blocks": top_down_summary(by_task, min_blocks=4),
        "truncation": truncation_summary(truncation(records)),
        "hessian": hessian_summary(hessian(records)),
        "llc": llc_summary(records),
        "measures": other_summary(other_measures(records)),
    }


def _count(flags: pd.Series) -> dict[str, int]:
    return {"count": int(np.sum(flags.to_numpy(dtype=bool))), "of": len(flags)}
