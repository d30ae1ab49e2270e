"""The claim that RankMe's changes run ahead of behaviour's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from geomfast.analysis.claim import DOES_NOT, HOLDS, PARTLY, Claim
from geomfast.analysis.claims.wording import missing, several, span
from geomfast.analysis.crosscorrelation import LEAST_TASK_LEVELS
from geomfast.analysis.crosscorrelation import cross_correlation as correlate
from geomfast.analysis.intervals import Estimate

#: Error rate of the permutation test.
ALPHA = 0.05
#: A grid that is wider, in doublings of the step, cannot tell ahead from behind.
WIDEST = 1.0

CROSS_CORRELATION = Claim(
    name="cross_correlation",
    title="RankMe's changes run ahead",
    statement="Changes of RankMe run ahead of the changes of accuracy of the same task-level.",
    criterion=(
        "Changes on a grid even in the logarithm of the step, correlated at lags of up to three "
        "doublings and averaged over task-levels. Holds if the largest correlation is at a lead "
        "whose interval is above zero, and larger than with the accuracy of other task-levels of "
        f"the same run (permutation, p < {ALPHA:g}); partly if the lead is above zero and either "
        "is so. Not enough data where checkpoints are too far apart for a grid of "
        f"{WIDEST:g} doubling. The log-probability and the other measures stand beside it."
    ),
    unit="doublings of the step",
)


def cross_correlation(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """Lead of RankMe's changes over those of accuracy.

    The table is that of
    :func:`geomfast.analysis.crosscorrelation.cross_correlation` for all measures.
    """
    if why := missing(records, "rankme", "accuracy"):
        return CROSS_CORRELATION.undecided(why)
    table = correlate(records, chance=chance)
    claim = replace(CROSS_CORRELATION, table=table)
    own = table[table["measure"] == "rankme"]
    if own.empty:
        reason = f"no run with {LEAST_TASK_LEVELS} task-levels that emerged and enough checkpoints"
        return claim.undecided(reason)
    row = own.iloc[0]
    if row["spacing"] > WIDEST:
        reason = f"checkpoints {row['spacing']:.1f} doublings apart: closer ones are missing"
        return claim.undecided(reason)
    estimate = Estimate(row["lead"], row["low"], row["high"], row["how"])
    ahead, unlikely = row["low"] > 0, row["p_value"] < ALPHA
    verdict = DOES_NOT
    if ahead and unlikely:
        verdict = HOLDS
    elif row["lead"] > 0 and (ahead or unlikely):
        verdict = PARTLY
    n = {"runs": int(row["runs"]), "task-levels of runs": int(row["task_levels"])}
    beside = [
        f"{other['measure']} {other['lead']:+.2f}"
        for other in table[table["measure"] != "rankme"].to_dict("records")
    ]
    reason = (
        f"correlation {row['correlation']:+.2f} at the largest, p {row['p_value']:.2g} against "
        f"other task-levels, grid of {row['spacing']:.2g} doublings"
    )
    if beside:
        reason += f"; others lead by: {', '.join(beside)}"
    measured = (
        f"{span(estimate, '{:+.2f}'.format)} doublings; "
        f"{several(n['task-levels of runs'], 'task-level')} of {several(n['runs'], 'run')}"
    )
    return claim.judged(verdict, reason, estimate, measured, n=n)
