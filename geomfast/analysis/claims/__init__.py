"""Every claim of arXiv:2602.15997 that one set of records can speak to, one function each.

Each takes ``records``, the table of :func:`geomfast.records.load_records`, and ``chance``, the
exact-match chance by task-level name (0 where it names none), and returns a
:class:`geomfast.analysis.claim.Claim` with the table of rows that it was judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from geomfast.analysis.check import check
from geomfast.analysis.claim import Claim
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
from geomfast.testbed.tasks import TASKS, TaskLevel

#: In the order of the paper's story: what emerges, the collapse before it, what leads and what
#: does not, what can be predicted, and what probes find.
CLAIMS: tuple[Callable[..., Claim], ...] = (
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


def claims(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> list[Claim]:
    """Judge every claim.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        chance: exact-match chance by task-level name; what the tasks themselves say when None.

    Returns:
        The claims, in the order of :data:`CLAIMS`.  One for which scales, seeds, measures or
        events are missing says "not enough data" and what is missing.

    Raises:
        ContradictoryRecords: of :func:`geomfast.analysis.check`.
    """
    check(records)
    chance = task_chances(records) if chance is None else chance
    return [judge(records, chance=chance) for judge in CLAIMS]


def task_chances(records: pd.DataFrame) -> dict[str, float]:
    """Exact-match chance by task-level name, of the tasks in the records that are ours."""
    cells = records[["task", "level"]].drop_duplicates()
    levels = [TaskLevel(*cell) for cell in cells.itertuples(index=False) if cell.task in TASKS]
    return {level.name: level.chance for level in levels}
