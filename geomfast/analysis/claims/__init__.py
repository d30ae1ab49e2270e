"""Every claim of arXiv:2602.15997 that one set of records can speak to, one function each.

Each takes ``records``, the table of :func:`geomfast.records.load_records`, and ``chance``, the
exact-match chance by task-level name (0 where it names none), and returns a
:class:`geomfast.analysis.claim.Claim` with the table of rows that it was judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pandas as pd

from geomfast.analysis.check import check
from geomfast.analysis.claim import NOT_ENOUGH, Claim
from geomfast.analysis.claims.crosscorrelation import cross_correlation
from geomfast.analysis.claims.events import emerged
from geomfast.analysis.claims.floors import (
    collapsed,
    mod_floor,
    scale_invariant_floors,
    task_specific_floors,
)
from geomfast.analysis.claims.hierarchy import (
    geometry_leads,
    hessian_lags,
    llc_synchronous,
    only_rankme_leads,
)
from geomfast.analysis.claims.layers import top_down
from geomfast.analysis.claims.prediction import coarse_difficulty, swaps, within_class
from geomfast.analysis.claims.probes import probe_first
from geomfast.analysis.rates import differing_rates, of_one_rate
from geomfast.testbed.tasks import TASKS, TaskLevel

#: In the order of the paper's story: what emerges, the collapse before it, what leads and what
#: does not, what can be predicted, and what probes find.  None mixes learning rates of a scale.
CLAIMS: tuple[Callable[..., Claim], ...] = tuple(
    of_one_rate(judge)
    for judge in (
        emerged,
        collapsed,
        mod_floor,
        task_specific_floors,
        scale_invariant_floors,
        top_down,
        geometry_leads,
        llc_synchronous,
        hessian_lags,
        only_rankme_leads,
        cross_correlation,
        coarse_difficulty,
        within_class,
        swaps,
        probe_first,
    )
)
#: Those that compare scales, which may have been trained at different learning rates.
_ACROSS_SCALES = ("mod_floor", "task_specific_floors", "scale_invariant_floors", "swaps")


def claims(
    records: pd.DataFrame,
    *,
    chance: Mapping[str, float] | None = None,
    usual_rates: Mapping[str, float] | None = None,
) -> list[Claim]:
    """Judge every claim.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        chance: exact-match chance by task-level name; what the tasks themselves say when None.
        usual_rates: peak learning rate by scale, of runs whose names do not say theirs.

    Returns:
        The claims, in the order of :data:`CLAIMS`.  One for which scales, seeds, measures or
        events are missing says "not enough data" and what is missing; the reason of one that
        compares scales names their learning rates where these differ.

    Raises:
        ContradictoryRecords: of :func:`geomfast.analysis.check`.
        SeveralRates: a scale has runs at several learning rates or warm-ups; choose by
            :func:`geomfast.analysis.at_rate`.
    """
    check(records)
    chance = task_chances(records) if chance is None else chance
    found = [judge(records, chance=chance) for judge in CLAIMS]
    if not (differ := differing_rates(records, usual_rates)):
        return found
    return [
        replace(claim, reason=f"{claim.reason}; learning rates differ: {differ}")
        if claim.name in _ACROSS_SCALES and claim.verdict != NOT_ENOUGH
        else claim
        for claim in found
    ]


def task_chances(records: pd.DataFrame) -> dict[str, float]:
    """Exact-match chance by task-level name, of the tasks in the records that are ours."""
    cells = records[["task", "level"]].drop_duplicates()
    levels = [TaskLevel(*cell) for cell in cells.itertuples(index=False) if cell.task in TASKS]
    return {level.name: level.chance for level in levels}
