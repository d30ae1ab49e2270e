"""Claims about what early geometry predicts, and what it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from geomfast.analysis.claim import DOES_NOT, HOLDS, PARTLY, Claim
from geomfast.analysis.claims.wording import missing, percent, several, span
from geomfast.analysis.concordance import decided, pairs
from geomfast.analysis.concordance import swaps as swapped
from geomfast.analysis.concordance import within_class as concordance
from geomfast.analysis.difficulty import (
    LEAST_EMERGED,
    LEAST_TASK_LEVELS,
    early_correlation,
    early_geometry,
)
from geomfast.analysis.intervals import Estimate, mean_over_seeds, share_over_seeds

#: A correlation of this size or more is a strong one.
STRONG = 0.5
#: Concordance from which a prediction is of use: halfway from guessing to knowing.
USEFUL = 0.75
#: Fewest decided pairs of one level, and fewest reversals, to judge by.
LEAST_PAIRS, LEAST_SWAPS = 6, 4
#: A guess tells the order at two scales in one of four cases; half is twice that.
GUESSED, HALF = 0.25, 0.5

_EARLY = (
    "Early geometry is RankMe of the final state at the last checkpoint before any task-level of "
    "the run has emerged. "
)
_DIRECTION = (
    "Whether more RankMe means earlier is learned, for each pair, from pairs of the same run that "
    "are of different levels and share no task-level with it. "
)

COARSE = Claim(
    name="coarse_difficulty",
    title="Early geometry encodes difficulty",
    statement="Early RankMe orders the task-levels of a run much as they later emerge.",
    criterion=(
        f"{_EARLY}Spearman's rho with the emergence step over the task-levels of a run; "
        "task-levels that never emerged, or are pending, share the last rank. Holds if the mean "
        f"over runs is at least {STRONG:g} in size with an interval that excludes zero; partly if "
        "one of the two is so. The direction is not prescribed: positive means that a higher "
        "RankMe emerges later. A run needs "
        f"{LEAST_TASK_LEVELS} task-levels, of which {LEAST_EMERGED} emerged."
    ),
    unit="Spearman's rho",
)

WITHIN_CLASS = Claim(
    name="within_class",
    title="Early geometry does not time a class",
    statement="Among task-levels of one difficulty level, early RankMe does not tell which "
    "emerges first.",
    criterion=(
        f"{_EARLY}{_DIRECTION}The value is the share of concordant pairs of one level, which "
        "emerge in the order that geometry gives; pairs that emerge at one checkpoint, of which "
        "neither emerges, or of equal RankMe are undecided and left out. Guessing gives "
        f"{percent(HALF)}. Holds (geometry does not tell) if the whole interval is below "
        f"{percent(USEFUL)}, does not hold if the share is at least that; otherwise partly. At "
        f"least {LEAST_PAIRS} decided pairs are needed."
    ),
    unit="share",
)

SWAPS = Claim(
    name="swaps",
    title="Early geometry misses reversals",
    statement="Where two task-levels emerge in opposite order at two scales, early RankMe does "
    "not tell so.",
    criterion=(
        f"{_EARLY}{_DIRECTION}A reversal is a pair of task-levels whose order is the same in all "
        "seeds of a scale that decide it, and opposite at another scale. The value is the share of "
        "reversals, seed by seed, that geometry tells at both scales: guessing gives "
        f"{percent(GUESSED)}, a geometry that is the same at all scales 0%. Holds (geometry fails) "
        f"if the whole interval is below {percent(HALF)}, does not hold if the share is at least "
        f"that; otherwise partly. At least {LEAST_SWAPS} reversals are needed."
    ),
    unit="share",
)


def coarse_difficulty(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """Spearman's rho between early geometry and emergence order.

    The table is that of :func:`geomfast.analysis.difficulty.early_correlation`.
    """
    early = early_geometry(records, chance=chance)
    table = early_correlation(early)
    known = table[table["rho"].notna()]
    runs = known[known["geometry"] == "early"]
    claim = replace(COARSE, table=table)
    if runs.empty:
        return claim.undecided(_no_run(records))
    estimate = mean_over_seeds(runs["rho"].to_numpy(), runs["scale"].tolist(), least=-1.0, most=1.0)
    if len(runs) == 1:
        low, high, count = runs.iloc[0][["low", "high", "task_levels"]]
        how = f"Bonett-Wright, {count} task-levels taken as independent"
        estimate = Estimate(estimate.value, float(low), float(high), how)
    strong = abs(estimate.value) >= STRONG
    excludes = estimate.low > 0 or estimate.high < 0
    verdict = HOLDS if strong and excludes else PARTLY if strong or excludes else DOES_NOT
    initial = known.loc[known["geometry"] == "initial", "rho"].mean()
    each = ", ".join(
        f"{scale} {rho:+.2f}"
        for scale, rho in runs.groupby("scale", sort=False)["rho"].mean().items()
    )
    n = {
        "runs": len(runs),
        "scales": runs["scale"].nunique(),
        "seeds": runs["seed"].nunique(),
        "censored": int(runs["censored"].sum()),
    }
    reason = (
        f"mean rho by scale: {each}; RankMe at initialisation gives {initial:+.2f}; "
        f"{n['censored']} of {int(runs['task_levels'].sum())} task-levels censored"
    )
    measured = f"{span(estimate, '{:+.2f}'.format)}; {several(len(runs), 'run')}"
    return claim.judged(verdict, reason, estimate, measured, n=n)


def within_class(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """Concordance of early geometry and emergence order within a difficulty level.

    The table is that of :func:`geomfast.analysis.concordance.within_class`.
    """
    every = pairs(early_geometry(records, chance=chance))
    claim = replace(WITHIN_CLASS, table=concordance(every))
    if every.empty:
        return claim.undecided(_no_run(records))
    within = every[every["level"] > 0]
    sure = decided(within)
    n = {
        "runs": sure["run"].nunique(),
        "seeds": sure["seed"].nunique(),
        "pairs": len(sure),
        "undecided": len(within) - len(sure),
    }
    claim = replace(claim, n=n)
    if len(sure) < LEAST_PAIRS:
        reason = (
            f"{several(len(sure), 'decided pair')} of one level ({n['undecided']} undecided), at "
            f"least {LEAST_PAIRS} are needed, and two levels to learn the direction from"
        )
        return claim.undecided(reason)
    share = share_over_seeds(sure["agrees"], sure["run"], sure["scale"])
    verdict = HOLDS if share.high < USEFUL else DOES_NOT if share.value >= USEFUL else PARTLY
    levels = ", ".join(
        f"level {level} {percent(float(rows['agrees'].mean()))} of {len(rows)}"
        for level, rows in sure.groupby("level")
    )
    across = decided(every[every["level"] == 0])["agrees"].mean()
    reason = (
        f"concordant pairs: {levels}; pairs of different levels {percent(float(across))}; "
        f"{n['undecided']} undecided"
    )
    measured = (
        f"{span(share, percent)} of {several(len(sure), 'pair')}; {several(n['runs'], 'run')}"
    )
    return claim.judged(verdict, reason, share, measured)


def swaps(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """Whether early geometry reverses where the order of emergence does.

    The table is that of :func:`geomfast.analysis.concordance.swaps`.
    """
    every = pairs(early_geometry(records, chance=chance))
    if every["scale"].nunique() < 2:
        scales = ", ".join(every["scale"].unique()) or "none"
        reason = f"needs two scales with emergence; there is: {scales}"
        return SWAPS.undecided(reason)
    seeds = every.drop_duplicates(["scale", "seed"])["seed"]
    if not seeds.duplicated().any():
        return SWAPS.undecided("no two scales have a seed in common")
    table = swapped(every)
    reversals = table.drop_duplicates(["first", "second", "scale", "other"])
    n = {
        "reversals": len(reversals),
        "compared": table.attrs["compared"],
        "scales": every["scale"].nunique(),
        "seeds": table["seed"].nunique(),
    }
    claim = replace(SWAPS, table=table, n=n)
    told = f"{several(len(reversals), 'reversal')} among {n['compared']:,} pairs with an order"
    if len(reversals):
        told += f" ({percent(len(reversals) / n['compared'])})"
    if len(reversals) < LEAST_SWAPS:
        return claim.undecided(f"{told}, at least {LEAST_SWAPS} are needed")
    # One cluster a seed: the reversals are given, the seeds' geometry is what varies.
    share = share_over_seeds(table["reversed"], table["seed"].astype(str), [""] * len(table))
    verdict = HOLDS if share.high < HALF else DOES_NOT if share.value >= HALF else PARTLY
    either = float(pd.concat([table["right"], table["right_other"]]).mean())
    reason = f"{told}; order at one scale told in {percent(either)}"
    measured = (
        f"{span(share, percent)} of {several(len(reversals), 'reversal')}; "
        f"{several(n['seeds'], 'seed')}"
    )
    return claim.judged(verdict, reason, share, measured)


def _no_run(records: pd.DataFrame) -> str:
    """Why no run can be judged."""
    return missing(records, "rankme", "accuracy") or (
        f"no run with {LEAST_TASK_LEVELS} task-levels, of which {LEAST_EMERGED} emerged after the "
        "first checkpoint"
    )
