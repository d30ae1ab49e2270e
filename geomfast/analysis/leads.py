"""Which measures change before a capability emerges, and how often.

The change point of a measure (:mod:`geomfast.analysis.changes`) is set against the emergence of
the same task-level in the same run (:mod:`geomfast.analysis.events`).  Both are known only to lie
between two checkpoints, and a change point between the two ends of its confidence set: a lead is
one where the whole interval of the change is before that of emergence.  Intervals that overlap
are a tie, neither lead nor lag, so a lead shorter than the distance between checkpoints of the
coarser series is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.changes import LEAST_CHECKPOINTS, change_points
from geomfast.analysis.collapse import half_collapse
from geomfast.analysis.events import emergence
from geomfast.analysis.intervals import share_over_seeds
from geomfast.analysis.llc import beyond_doubt
from geomfast.analysis.remember import once
from geomfast.analysis.trajectories import TRAJECTORY, in_order, log_steps
from geomfast.measures import catalog
from geomfast.records import FINAL

#: Measures set against emergence by their change point.  The log-probability is no geometry: it
#: shows how early behaviour itself moves.
MEASURES = ("rankme", "fisher_rank", "gradient_covariance_rank", "hessian_top", "llc")
MEASURES += ("answer_logprob",)
#: The half-collapse of the final state, RankMe's first fall, beside its change point, which is
#: mostly its later rise.
COLLAPSE = "rankme_collapse"

LEAD, TIE, LAG, NO_CHANGE = "lead", "tie", "lag", "no change"
#: Outcomes of task-levels that emerged; the others have no event to be set against.
EVENTS = (LEAD, TIE, LAG, NO_CHANGE)
NEVER, PENDING = "never emerged", "pending"
NO_BEHAVIOUR, TOO_FEW = "no behaviour", "too few checkpoints"
OUTCOMES = (*EVENTS, NEVER, PENDING, NO_BEHAVIOUR, TOO_FEW)

_CHANGE = {"step": "changed", "after": "changed_after", "by": "changed_by"}
_EMERGED = {"step": "emerged", "after": "emerged_after"}
LEAD_COLUMNS = [*TRAJECTORY, "measure", *_EMERGED.values(), *_CHANGE.values(), "lead", "width"]
LEAD_COLUMNS += ["outcome"]
RATE_COLUMNS = ["measure", "scale", "level", "events", "leads", "ties", "lags", "no_change"]
RATE_COLUMNS += ["excluded", "rate", "low", "high", "how", "median_lead", "median_width"]


@once
def leads(
    records: pd.DataFrame,
    *,
    chance: Mapping[str, float] | None = None,
    measures: Sequence[str] = (*MEASURES, COLLAPSE),
    events: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Change of every measure against emergence, task-level by task-level.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        chance: exact-match chance by task-level name; 0 if absent.
        measures: any, of the final state where there are layers, or :data:`COLLAPSE`; those that
            are not in the records have no rows. Of llc only coefficients beyond doubt count.
        events: emergence by another rule than :func:`geomfast.analysis.emergence`'s, with its
            columns ``step``, ``after`` and ``pending``, such as the rises of benchmarks.

    Returns:
        One row per run, scale, seed, task, level and ``measure``: ``emerged`` and
        ``emerged_after`` (emergence step, and the checkpoint before it), ``changed``,
        ``changed_after`` and ``changed_by`` (change point, and its confidence set), ``lead`` (in
        doublings of the step, positive when the measure is first; NaN where either is missing),
        ``width`` (of both intervals together, in doublings: leads shorter than about that are
        ties) and ``outcome``, one of :data:`OUTCOMES`.
    """
    emerged = emergence(records, chance=chance) if events is None else events
    emerged = emerged.rename(columns=_EMERGED)
    emerged = emerged[[*TRAJECTORY, *_EMERGED.values(), "pending"]]
    frames = []
    for measure in measures:
        changed = _half_collapse(records) if measure == COLLAPSE else _changes(records, measure)
        both = changed.merge(emerged, on=TRAJECTORY, how="left")
        frames.append(both.assign(measure=measure))
    table = pd.concat(frames, ignore_index=True)
    changed, start = log_steps(table["changed"]), log_steps(table["changed_after"])
    event = log_steps(table["emerged"])
    # Before the first checkpoint lies everything.
    event_start = log_steps(table["emerged_after"].fillna(0.0))
    end = log_steps(table["changed_by"])
    table["lead"] = event - changed
    table["width"] = (end - start) + (event - event_start)
    table["outcome"] = _outcomes(table)
    # By measure in the order asked for, cells in their usual order within.
    table["measure"] = pd.Categorical(table["measure"], list(measures))
    table = in_order(table).sort_values("measure", kind="stable").astype({"measure": str})
    return table[LEAD_COLUMNS].reset_index(drop=True)


def _changes(records: pd.DataFrame, measure: str) -> pd.DataFrame:
    spec = catalog().specs.get(measure)
    layer = FINAL if spec and spec.per_layer else ""
    if measure == "llc":
        records = beyond_doubt(records)
    return change_points(records, measure, layer=layer).rename(columns=_CHANGE)


def _half_collapse(records: pd.DataFrame) -> pd.DataFrame:
    """Half-collapse of the final state in the form of a change point."""
    table = half_collapse(records[records["layer"] == FINAL])
    table = table.rename(columns={"half_step": "changed", "half_after": "changed_after"})
    return table.assign(changed_by=table["changed"])


def _outcomes(table: pd.DataFrame) -> np.ndarray:
    after = table["emerged_after"].fillna(-math.inf)
    conditions = {
        NO_BEHAVIOUR: table["pending"].isna(),
        PENDING: table["pending"].eq(True),
        NEVER: table["emerged"].isna(),
        TOO_FEW: table["checkpoints"] < LEAST_CHECKPOINTS,
        NO_CHANGE: table["changed"].isna(),
        LEAD: table["changed_by"] <= after,
        LAG: table["changed_after"] >= table["emerged"],
    }
    flags = [flag.to_numpy(dtype=bool) for flag in conditions.values()]
    return np.select(flags, list(conditions), TIE)


def precursors(table: pd.DataFrame) -> pd.DataFrame:
    """Precursor rate of every measure, over all and by scale and level.

    Args:
        table: the rows of :func:`leads`.

    Returns:
        One row per ``measure``, ``scale`` and ``level``, of which the scale may be empty (all of
        them) and the level 0 (all): ``events`` (task-levels that emerged and where the measure
        has enough checkpoints), of these ``leads``, ``ties``, ``lags`` and ``no_change``;
        ``excluded`` (never emerged, pending, or too few checkpoints); ``rate`` = leads / events
        with ``low``, ``high`` and ``how`` (:func:`geomfast.analysis.intervals.share_over_seeds`);
        ``median_lead`` and ``median_width`` over events that have one (doublings of the step).
    """
    found = []
    for measure, rows in table.groupby("measure", sort=False):
        for scale, level, part in _parts(rows):
            found.append({"measure": measure, "scale": scale, "level": level} | rate(part))
    return pd.DataFrame(found, columns=RATE_COLUMNS)


def _parts(rows: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    levels = [0, *sorted(rows["level"].unique())]
    for scale in ["", *rows["scale"].unique()]:
        of_scale = rows[rows["scale"] == scale] if scale else rows
        for level in levels:
            yield scale, int(level), of_scale[of_scale["level"] == level] if level else of_scale


def rate(rows: pd.DataFrame) -> dict[str, Any]:
    """The result of :func:`precursors` for rows of one measure."""
    events = rows[rows["outcome"].isin(EVENTS)]
    counts = {name: int((events["outcome"] == name).sum()) for name in EVENTS}
    share = share_over_seeds(events["outcome"] == LEAD, events["run"], events["scale"])
    names = dict(zip(("leads", "ties", "lags", "no_change"), counts.values(), strict=True))
    interval = {"rate": share.value, "low": share.low, "high": share.high, "how": share.how}
    medians = {f"median_{name}": float(events[name].median()) for name in ("lead", "width")}
    excluded = len(rows) - len(events)
    return {"events": len(events), **names, "excluded": excluded, **interval, **medians}
