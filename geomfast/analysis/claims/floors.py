"""Claims about the collapse: that it happens, and what its floor depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from geomfast.analysis.claim import DOES_NOT, HOLDS, NOT_ENOUGH, PARTLY, Claim, Verdict
from geomfast.analysis.claims.wording import counted, listed, percent, sample, span
from geomfast.analysis.collapse import collapse
from geomfast.analysis.events import emergence
from geomfast.analysis.floors import (
    ALPHA,
    DIFFERENT,
    OPEN,
    SAME,
    SAME_FACTOR,
    across_scales,
    floors,
    task_share,
)
from geomfast.analysis.intervals import Estimate, mean_over_seeds, share_over_seeds
from geomfast.analysis.paper import MOD_FLOOR
from geomfast.analysis.trajectories import TRAJECTORY
from geomfast.records import FINAL
from geomfast.testbed.tasks.names import task_level

#: A fall by this share of the initial value is a collapse: twice what the minimum of hundreds of
#: checkpoints falls short of a level by fluctuation alone.
DEEP = 0.05
#: Shares from which nearly all and at least half of the cases do a thing.
NEARLY_ALL, HALF = 0.95, 0.5
#: How far from 2.0 a floor may be and still be about 2.0.
NEAR = 0.25
#: Share of task-levels whose floor must be shown to be the same at all scales.
MOSTLY_SAME = 0.9
#: Share of the variance between task-levels from which floors are the task's own.
OWN = 0.75

NO_RANKME = "no RankMe of the final state at two checkpoints in the records"
STILL_FALLING = "all runs end before RankMe reaches its floor"
_FLOOR = (
    "The floor is RankMe's minimum after the first checkpoint, of the final state; one at the last "
    "checkpoint is not reached yet and is left out."
)

COLLAPSED = Claim(
    name="collapsed",
    title="Representations collapse first",
    statement="Training begins with a fall of RankMe to a floor, before the capability emerges.",
    criterion=(
        f"{_FLOOR} A collapse is a floor at least {percent(DEEP)} below the first value, and "
        "before emergence where the task-level emerged. Holds from "
        f"{percent(NEARLY_ALL)} of all task-levels of all runs, partly from {percent(HALF)}, and "
        "partly at best where no accuracy says when they emerge."
    ),
    unit="share",
)

MOD = Claim(
    name="mod_floor",
    title=f"MOD collapses to {MOD_FLOOR:.1f}",
    statement=f"Modular addition collapses to a RankMe of about {MOD_FLOOR:.1f} at every size.",
    criterion=(
        f"{_FLOOR} Holds if the mean over seeds is within {NEAR:g} of {MOD_FLOOR:.1f} on "
        "every level of MOD at every scale, of which there must be two; partly if it is at some, "
        "or at the only scale there is."
    ),
    unit="dimensions",
)

TASK_SPECIFIC = Claim(
    name="task_specific_floors",
    title="Floors are the task's own",
    statement="The floor of the collapse depends on the task-level more than on scale and seed.",
    criterion=(
        f"{_FLOOR} Holds if {percent(OWN)} of the variance of its logarithm over all runs "
        "lies between task-levels (intraclass correlation) and the lower end of the interval is "
        f"above {percent(HALF)}; partly if more than {percent(HALF)} does."
    ),
    unit="share of variance",
)

SCALE_INVARIANT = Claim(
    name="scale_invariant_floors",
    title="Floors do not depend on scale",
    statement="The floor of a task-level's collapse is the same at every model size.",
    criterion=(
        f"{_FLOOR} It is the same if seeds show, for every two scales, that their means "
        f"differ by less than a factor of {SAME_FACTOR:g} (equivalence test, p < {ALPHA:g}), "
        "different if for some two they show more; that no difference is found would show "
        f"nothing. Holds if {percent(MOSTLY_SAME)} of the task-levels are the same, does not hold "
        f"if {percent(HALF)} are different; not enough data if more than {percent(HALF)} are "
        "undecided; otherwise partly. The value is the coefficient of variation over scales, "
        "median of the task-levels, mean of the seeds that all scales share."
    ),
    unit="coefficient of variation",
)


def collapsed(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """Number of task-levels that collapse before they emerge, and their floors.

    The table is that of :func:`geomfast.analysis.floors.floors`.
    """
    every = _final(records)
    if every.empty:
        return COLLAPSED.undecided(NO_RANKME)
    when = emergence(records, chance=chance)[[*TRAJECTORY, "step"]]
    every = every.merge(when, on=TRAJECTORY, how="left")
    # What has emerged before it reached a floor has not collapsed first.
    table = every[_reached(every) | every["step"].notna()]
    falling = len(every) - len(table)
    if table.empty:
        return COLLAPSED.undecided(STILL_FALLING)
    in_time = table["step"].isna() | (table["floor_step"] < table["step"])
    flags = (table["depth"] >= DEEP) & in_time
    share = share_over_seeds(flags, table["run"], table["scale"])
    behaved = not when.empty
    verdict = _by_share(share.value)
    if verdict == HOLDS and not behaved:
        verdict = PARTLY
    order = f"{int((~in_time).sum())} have it after emergence"
    n = counted(table)
    reason = (
        f"{int(flags.sum())} of {len(table)} task-levels; the median floor is "
        f"{percent(float(table['depth'].median()))} below the first value, at step "
        f"{table['floor_step'].median():,.0f}; "
        f"{order if behaved else 'no accuracy to say whether before emergence'}, "
        f"{falling} more have not reached it"
    )
    measured = f"{span(share, percent)}; {sample(n)}"
    return COLLAPSED.judged(verdict, reason, share, measured, n=n, table=floors(table))


def mod_floor(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """The floor of modular addition against the paper's 2.0.

    The value is the mean over levels and runs; the table is that of
    :func:`geomfast.analysis.floors.floors`, for MOD.
    """
    every = _final(records)
    every = every[every["task"] == "MOD"]
    table = every[_reached(every)]
    if table.empty:
        return MOD.undecided(f"{NO_RANKME} for MOD" if every.empty else STILL_FALLING)
    by_run = table.groupby(["run", "scale"], sort=False)["floor"].mean().reset_index()
    mean = mean_over_seeds(by_run["floor"].to_numpy(), by_run["scale"].tolist(), least=1.0)
    found = floors(table)
    near = (found["floor"] - MOD_FLOOR).abs() <= NEAR
    scales = table["scale"].nunique()
    verdict = PARTLY if near.any() else DOES_NOT
    if near.all() and scales >= 2:
        verdict = HOLDS
    where = [
        f"{row['scale']} {task_level('MOD', row['level'])} {row['floor']:.2f}"
        for row in found.to_dict("records")
    ]
    only = "" if scales >= 2 else f"; other scales than {found['scale'].iloc[0]} are missing"
    n = counted(table)
    reason = f"{int(near.sum())} of {len(found)} within {NEAR:g}: {listed(where, 9)}{only}"
    measured = f"{span(mean, '{:.2f}'.format)}; {sample(n)}"
    return MOD.judged(verdict, reason, mean, measured, n=n, table=found)


def task_specific_floors(
    records: pd.DataFrame, *, chance: Mapping[str, float] | None = None
) -> Claim:
    """Share of the variance of floors that the task-level explains.

    The table is that of :func:`geomfast.analysis.floors.floors`.
    """
    every = _final(records)
    table = every[_reached(every)]
    share, n = task_share(table), counted(table)
    if table.empty:
        return TASK_SPECIFIC.undecided(NO_RANKME if every.empty else STILL_FALLING)
    found = replace(TASK_SPECIFIC, n=n, table=floors(table))
    if math.isnan(share.value):
        return found.undecided("needs two task-levels in two runs (seeds or scales)")
    verdict = PARTLY if share.value > HALF else DOES_NOT
    if share.value >= OWN and share.low > HALF:
        verdict = HOLDS
    reason = f"{percent(share.value)} of the variance of log floors is between task-levels"
    measured = f"{span(share, percent)}; {sample(n)}"
    return found.judged(verdict, reason, share, measured)


def scale_invariant_floors(
    records: pd.DataFrame, *, chance: Mapping[str, float] | None = None
) -> Claim:
    """Whether floors are the same at every scale, and how much they vary.

    The table is that of :func:`geomfast.analysis.floors.across_scales`.
    """
    every = _final(records)
    table = every[_reached(every)]
    if table.empty:
        return SCALE_INVARIANT.undecided(NO_RANKME if every.empty else STILL_FALLING)
    found = across_scales(table)
    if found.empty:
        scales = ", ".join(table["scale"].unique())
        return SCALE_INVARIANT.undecided(f"needs two scales; there is only {scales}")
    variation = _variation(table, found)
    counts = {name: int((found["verdict"] == name).sum()) for name in (SAME, DIFFERENT, OPEN)}
    of = len(found)
    verdict = PARTLY
    reason = (
        f"{counts[SAME]} of {of} task-levels the same within a factor of {SAME_FACTOR:g}, "
        f"{counts[DIFFERENT]} different, {counts[OPEN]} undecided"
    )
    if counts[SAME] >= MOSTLY_SAME * of:
        verdict = HOLDS
    elif counts[DIFFERENT] >= HALF * of:
        verdict = DOES_NOT
    elif counts[OPEN] > HALF * of:
        verdict = NOT_ENOUGH
        reason += "; more seeds per scale are missing"
    n = counted(table)
    measured = f"{span(variation, '{:.3f}'.format)}; {sample(n)}"
    return SCALE_INVARIANT.judged(verdict, reason, variation, measured, n=n, table=found)


def _variation(table: pd.DataFrame, found: pd.DataFrame) -> Estimate:
    """Median over task-levels of the coefficient of variation over scales, seed by seed."""
    wide = table.pivot_table(index=["task", "level", "seed"], columns="scale", values="floor")
    whole = wide.dropna()
    if whole.empty:  # no seed that all scales share
        return Estimate(float(found["variation"].median()))
    each = whole.std(axis=1, ddof=1) / whole.mean(axis=1)
    medians = each.groupby("seed").median().to_numpy()
    return mean_over_seeds(medians, [""] * len(medians), least=0.0)


def _final(records: pd.DataFrame) -> pd.DataFrame:
    """The collapse of the final state, of task-levels with two checkpoints or more."""
    table = collapse(records, layer=FINAL)
    return table[table["floor"].notna()].reset_index(drop=True)


def _reached(table: pd.DataFrame) -> pd.Series:
    """Whether RankMe has risen from its floor since."""
    return table["final"] > table["floor"]


def _by_share(share: float) -> Verdict:
    return HOLDS if share >= NEARLY_ALL else PARTLY if share >= HALF else DOES_NOT
