"""Shared by claims about leads and lags: the rule, and when data are insufficient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from geomfast.analysis.claim import NOT_ENOUGH, Claim
from geomfast.analysis.claims.wording import counted, missing, percent, sample, several, span
from geomfast.analysis.intervals import share_over_seeds
from geomfast.analysis.leads import EVENTS, LEAD, precursors, rate

#: Precursor rate from which a measure leads reliably, and up to which it is no precursor.
RELIABLE, RARE, HALF = 0.75, 0.25, 0.5
#: Fewest emergence events that a rate is taken of.
LEAST_EVENTS = 4
#: Intervals wider than this many doublings of the step cannot place a change against emergence.
WIDEST = 2.0

RULE = (
    "A measure's change point (two levels fitted over the logarithm of the step) is before "
    "emergence if its 95% confidence set ends by the checkpoint before the event; sets that "
    "overlap the event are ties, neither lead nor lag. The precursor rate is leads over all "
    "task-levels that emerged; those that never emerged or are pending are left out. "
)
TOO_COARSE = (
    f"Not enough data below {LEAST_EVENTS} events, and where more than half are ties because the "
    f"change cannot be placed within {WIDEST:g} doublings of the step."
)


def missing_reason(records: pd.DataFrame, table: pd.DataFrame, measure: str) -> str:
    """What is missing in the records for a claim about a measure; empty if nothing."""
    if not (table["measure"] == measure).any():
        return f"no {measure} of any task-level in the records"
    return missing(records, "accuracy")


def with_rate(
    claim: Claim,
    records: pd.DataFrame,
    table: pd.DataFrame,
    measure: str,
    *,
    level: int = 0,
    outcome: str = LEAD,
) -> tuple[Claim, dict[str, Any]]:
    """The claim with the share of an outcome as its value, and :func:`rate` of the rows behind it.

    Its table is that of :func:`geomfast.analysis.precursors`.

    Args:
        claim: still undecided; it stays so, with a reason, where there is too little to judge by.
        records, measure: what the outcomes are of.
        table: of :func:`geomfast.analysis.leads`.
        level: that counts; all of them when 0.
        outcome: one of :data:`geomfast.analysis.leads.EVENTS`.
    """
    claim = replace(claim, table=precursors(table))
    if why := missing_reason(records, table, measure):
        return claim.undecided(why), {}
    rows = table[(table["measure"] == measure) & ((level == 0) | (table["level"] == level))]
    if rows.empty:
        return claim.undecided(f"no task-level of level {level} in the records"), {}
    found = rate(rows)
    events = rows[rows["outcome"].isin(EVENTS)]
    share = share_over_seeds(events["outcome"] == outcome, events["run"], events["scale"])
    n = counted(events) | {"events": len(events), "left out": found["excluded"]}
    measured = f"{span(share, percent)}; {sample(counted(events))}" if len(events) else ""
    why = insufficient_reason(found)
    why = f"level {level}: {why}" if why and level else why
    return claim.judged(NOT_ENOUGH, why, share, measured, n=n), found


def insufficient_reason(found: Mapping[Any, Any]) -> str:
    """Why these events cannot be judged, or nothing."""
    if found["events"] < LEAST_EVENTS:
        return (
            f"{several(found['events'], 'event')}, at least {LEAST_EVENTS} are needed; "
            f"{found['excluded']} task-levels of runs left out"
        )
    if 2 * found["ties"] > found["events"] and found["median_width"] > WIDEST:
        return (
            f"{found['ties']} of {found['events']} are ties, the change being known to "
            f"{found['median_width']:.1f} doublings only: closer checkpoints are missing"
        )
    return ""


def outcome_text(found: Mapping[Any, Any]) -> str:
    """Outcomes and the median lead of some events as text."""
    lead = found["median_lead"]
    median = "" if math.isnan(lead) else f"; median lead {lead:+.1f} doublings of the step"
    return (
        f"{found['leads']} leads, {found['ties']} ties, {found['lags']} lags and "
        f"{found['no_change']} without a change point, of {several(found['events'], 'event')} "
        f"({found['excluded']} left out){median}"
    )
