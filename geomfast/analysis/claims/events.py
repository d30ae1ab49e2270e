"""The claim that capabilities emerge."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from geomfast.analysis.claim import DOES_NOT, HOLDS, NOT_ENOUGH, PARTLY, Claim
from geomfast.analysis.claims.wording import counted, percent, several, span
from geomfast.analysis.events import PERSISTENCE, THRESHOLDS, emergence
from geomfast.analysis.intervals import share_over_seeds
from geomfast.analysis.trajectories import in_order

#: Shares from which nearly all, and at least half, of the task-levels do a thing.
NEARLY_ALL, HALF = 0.95, 0.5
#: Runs with fewer steps cannot tell that few task-levels emerge: of a nano model, the smallest,
#: half of the events come by step 800, the last near 9,000.
LONG_ENOUGH = 2_000

EMERGED = Claim(
    name="emerged",
    title="Task-levels emerge",
    statement="Nearly every task-level reaches the accuracy criterion at every scale.",
    criterion=(
        f"An event: accuracy above chance reaches {THRESHOLDS['accuracy']:g} of what is left above "
        f"chance, and stays there for {PERSISTENCE} checkpoints; above it at the end but for fewer "
        "is pending, which is not emerged. Holds from "
        f"{percent(NEARLY_ALL)} of all task-levels of all runs, partly from {percent(HALF)}. Below "
        "that it does not hold, unless some run is too short to tell: fewer than "
        f"{LONG_ENOUGH:,} steps, or with events still coming in the last doubling of its steps."
    ),
    unit="share",
)


def emerged(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """Number of task-levels that reach the accuracy criterion, over all runs.

    A combination of task-level and scale, which is what the paper counts, has emerged when at
    least half of its seeds have.

    The table has a row per scale and task-level: ``runs``, ``emerged``, ``pending``
    (of these) and median ``step``.
    """
    table = emergence(records, chance=chance)
    if table.empty:
        return EMERGED.undecided("no accuracy in the records")
    has = table["step"].notna()
    share = share_over_seeds(has, table["run"], table["scale"])
    groups = table.assign(emerged=has).groupby(["scale", "task", "level"], sort=False)
    sums = {name: (name, "sum") for name in ("emerged", "pending")}
    combinations = groups.agg(runs=("run", "nunique"), **sums, step=("step", "median"))
    combinations = combinations.reset_index()
    reached = int((2 * combinations["emerged"] >= combinations["runs"]).sum())
    pending = int(table["pending"].sum())
    behaved = records[(records["measure"] == "accuracy") & (records["level"] > 0)]
    lengths = behaved.groupby("run", sort=False)["step"].max()
    length = table["run"].map(lengths)
    still = (table["step"] > length / 2) | table["pending"]
    too_short = bool((length < LONG_ENOUGH).any() or still.any())
    steps = " to ".join(f"{end:,}" for end in sorted({lengths.min(), lengths.max()}))
    reason = (
        f"{int(has.sum())} of {len(table)} task-levels emerged within {steps} steps, "
        f"{pending} more are pending"
    )
    verdict = DOES_NOT
    if share.value >= NEARLY_ALL:
        verdict = HOLDS
    elif share.value >= HALF:
        verdict = PARTLY
    elif too_short:
        verdict = NOT_ENOUGH
        reason += "; longer runs are missing"
    n = counted(table) | {"combinations": len(combinations), "events": int(has.sum())}
    measured = (
        f"{reached} of {several(len(combinations), 'combination')} of task-level and scale; "
        f"{span(share, percent)} of {len(table)} task-levels of {several(n['runs'], 'run')}"
    )
    table = in_order(combinations.assign(run="", seed=0)).drop(columns=["run", "seed"])
    return EMERGED.judged(verdict, reason, share, measured, n=n, table=table)
