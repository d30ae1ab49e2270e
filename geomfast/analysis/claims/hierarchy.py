"""Claims about what changes before a capability emerges, and what with it or after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from geomfast.analysis.claim import DOES_NOT, HOLDS, PARTLY, Claim
from geomfast.analysis.claims.rates import (
    HALF,
    RARE,
    RELIABLE,
    RULE,
    TOO_COARSE,
    insufficient_reason,
    missing_reason,
    outcome_text,
    with_rate,
)
from geomfast.analysis.claims.wording import counted, listed, percent, sample, span
from geomfast.analysis.intervals import Estimate, mean_over_seeds
from geomfast.analysis.leads import COLLAPSE, EVENTS, LAG, LEAD, MEASURES, TIE, leads, precursors
from geomfast.analysis.llc import DOUBTS, llc_values
from geomfast.analysis.others import others, value_columns
from geomfast.estimators.sampling.rules import BOUND

#: Task-levels at this level are the hard ones.
HARD = 3
#: What RankMe is compared with in the hierarchy.
OTHERS = ("fisher_rank", "gradient_covariance_rank", "hessian_top", "llc")
#: Less than this many doublings of the step apart is synchronous.
SYNCHRONOUS = 1.0

GEOMETRY_LEADS = Claim(
    name="geometry_leads",
    title="Representation geometry leads",
    statement="On hard task-levels RankMe of the final state changes before the task emerges.",
    criterion=(
        f"{RULE}Holds if the rate on level {HARD} is at least {percent(RELIABLE)} and the lower "
        f"end of its interval above {percent(HALF)}; partly if it is above {percent(HALF)}. "
        f"{TOO_COARSE}"
    ),
    unit="share",
)

ONLY_RANKME = Claim(
    name="only_rankme_leads",
    title="Only RankMe reliably leads",
    statement="RankMe changes before emergence reliably, and no other measure of the paper does.",
    criterion=(
        f"{RULE}Over all levels. Holds if RankMe's rate is at least {percent(RELIABLE)} and that "
        "of the paper's other measures, of which there must be two, below; partly if RankMe's is "
        "the highest. Measures that the paper has not do not decide, and are named where they "
        "reach it. The value is RankMe's rate minus the highest other one, mean over runs. "
        f"{TOO_COARSE} A measure of which that is true is left out."
    ),
    unit="difference of shares",
)

LLC_SYNCHRONOUS = Claim(
    name="llc_synchronous",
    title="LLC changes with emergence",
    statement="The local learning coefficient changes when a task emerges and is no precursor.",
    criterion=(
        f"{RULE}No precursor: a rate of at most {percent(RARE)}, the upper end of its interval "
        f"below {percent(HALF)}. Holds if that is so and at least half of the events are "
        f"synchronous: ties, or less than {SYNCHRONOUS:g} doubling of the step apart. Partly if "
        f"one of the two is so and the rate is below {percent(HALF)}. {TOO_COARSE}"
    ),
    unit="share",
)

HESSIAN_LAGS = Claim(
    name="hessian_lags",
    title="The Hessian lags",
    statement="The Hessian's top eigenvalue changes after a task emerges.",
    criterion=(
        f"{RULE}Holds if at least {percent(HALF)} of the events are lags and the precursor rate "
        f"is at most {percent(RARE)}; partly if there are more lags than leads. {TOO_COARSE}"
    ),
    unit="share",
)


def geometry_leads(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """Precursor rate of RankMe on hard task-levels.

    The table is that of :func:`geomfast.analysis.precursors`, for RankMe's change point
    and for its half-collapse.
    """
    table = leads(records, chance=chance, measures=("rankme", COLLAPSE))
    claim, found = with_rate(GEOMETRY_LEADS, records, table, "rankme", level=HARD)
    if claim.reason:
        return claim
    verdict = PARTLY if found["rate"] > HALF else DOES_NOT
    if found["rate"] >= RELIABLE and found["low"] > HALF:
        verdict = HOLDS
    rates = claim.table
    whole = rates[(rates["scale"] == "") & (rates["level"] != HARD)]
    beside = [
        (f"level {row['level']}" if row["level"] else "all levels") + f" {_share(row)}"
        for row in whole[whole["measure"] == "rankme"].to_dict("records")
    ]
    fall = whole[(whole["measure"] == COLLAPSE) & (whole["level"] == 0)].iloc[0]
    beside.append(f"half-collapse, all levels {_share(fall)}")
    return replace(claim, verdict=verdict, reason=f"{outcome_text(found)}; {', '.join(beside)}")


def only_rankme_leads(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """Precursor rates of all measures against each other.

    The table is that of :func:`geomfast.analysis.precursors` for all measures, the
    log-probability and RankMe's half-collapse included.
    """
    table = leads(records, chance=chance, measures=(*MEASURES, COLLAPSE))
    rates = precursors(table)
    claim = replace(ONLY_RANKME, table=rates)
    if why := missing_reason(records, table, "rankme"):
        return claim.undecided(why)
    overall = rates[(rates["scale"] == "") & (rates["level"] == 0)]
    found = {str(row["measure"]): row for row in overall.to_dict("records")}
    known = [name for name in ("rankme", *OTHERS) if name in found]
    unfit = {name: why for name in known if (why := insufficient_reason(found[name]))}
    against = [name for name in OTHERS if name in found and name not in unfit]
    without = [name for name in OTHERS if name not in found]
    if "rankme" in unfit or len(against) < 2:
        needs = "" if "rankme" in unfit else "two measures beside RankMe are needed; "
        why = [f"{name}: {text}" for name, text in unfit.items()]
        return claim.undecided(needs + "; ".join(why + [f"no {name}" for name in without]))
    best = max(against, key=lambda name: found[name]["rate"])
    own, other = found["rankme"]["rate"], found[best]["rate"]
    verdict = PARTLY if own > other else DOES_NOT
    if own >= RELIABLE and other < RELIABLE:
        verdict = HOLDS
    shown = [name for name in (*MEASURES, COLLAPSE) if name in found and name not in unfit]
    shares = ", ".join(f"{name} {_share(found[name])}" for name in shown)
    missing = [*without, *(f"{name} (not to be placed)" for name in unfit)]
    difference = _difference(table, best)
    n = counted(table) | {"events": found["rankme"]["events"]}
    reason = f"precursor rates: {shares}" + (f"; without {listed(missing)}" if missing else "")
    reason += _beside_the_paper(records, chance)
    measured = f"{span(difference, '{:+.2f}'.format)} over {best}; {sample(n)}"
    return claim.judged(verdict, reason, difference, measured, n=n)


def _beside_the_paper(records: pd.DataFrame, chance: Mapping[str, float] | None) -> str:
    """Measures that the paper has not and that are as reliable; empty where none was taken."""
    there = set(records["measure"].unique())
    names = [name for spec in others() for name in value_columns(spec) if name in there]
    if not names:
        return ""
    rates = precursors(leads(records, chance=chance, measures=names))
    overall = rates[(rates["scale"] == "") & (rates["level"] == 0)].to_dict("records")
    known = [row for row in overall if not insufficient_reason(row)]
    reliable = sorted(
        (row for row in known if row["rate"] >= RELIABLE), key=lambda row: -row["rate"]
    )
    shares = listed([f"{row['measure']} {_share(row)}" for row in reliable])
    told = f"{len(reliable)} of {len(known)} measures beside the paper's reach {percent(RELIABLE)}"
    return f"; {told}" + f": {shares}" * bool(reliable) if known else ""


def llc_synchronous(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """Whether the local learning coefficient changes with emergence, and not before.

    The value is the precursor rate; the table is that of :func:`geomfast.analysis.precursors`.
    """
    values = llc_values(records)
    doubtful = int(values["doubt"].isin(DOUBTS).sum())
    bounds = int((values["doubt"] == BOUND).sum())
    if doubtful and doubtful == len(values):
        return LLC_SYNCHRONOUS.undecided(f"all {doubtful:,} coefficients are in doubt")
    table = leads(records, chance=chance, measures=("llc",))
    claim, found = with_rate(LLC_SYNCHRONOUS, records, table, "llc")
    if claim.reason:
        return claim
    events = table[table["outcome"].isin(EVENTS)]
    near = (events["outcome"] == TIE) | (events["lead"].abs() < SYNCHRONOUS)
    no_precursor = found["rate"] <= RARE and found["high"] < HALF
    together = float(near.mean()) >= HALF
    verdict = DOES_NOT
    if no_precursor and together:
        verdict = HOLDS
    elif (no_precursor or together) and found["rate"] < HALF:
        verdict = PARTLY
    reason = f"{outcome_text(found)}; {int(near.sum())} synchronous"
    if doubtful:
        reason += f"; {doubtful:,} of {len(values):,} coefficients are in doubt and left out"
    if bounds:
        reason += f"; {bounds:,} are lower bounds"
    return replace(claim, verdict=verdict, reason=reason)


def hessian_lags(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """Whether the Hessian's top eigenvalue changes after emergence.

    The value is the share of lags; the table is that of :func:`geomfast.analysis.precursors`.
    """
    table = leads(records, chance=chance, measures=("hessian_top",))
    claim, found = with_rate(HESSIAN_LAGS, records, table, "hessian_top", outcome=LAG)
    if claim.reason:
        return claim
    verdict = PARTLY if found["lags"] > found["leads"] else DOES_NOT
    if claim.value >= HALF and found["rate"] <= RARE:
        verdict = HOLDS
    reason = f"{outcome_text(found)}; precursor rate {percent(found['rate'])}"
    return replace(claim, verdict=verdict, reason=reason)


def _difference(table: pd.DataFrame, other: str) -> Estimate:
    """RankMe's precursor rate minus another's, mean over runs that have events of both."""
    events = table[table["outcome"].isin(EVENTS)]
    led = events.assign(led=events["outcome"] == LEAD)
    wide = led.pivot_table(index=["run", "scale"], columns="measure", values="led", aggfunc="mean")
    both = wide[["rankme", other]].dropna()
    difference = (both["rankme"] - both[other]).to_numpy(dtype=float)
    scales = both.index.get_level_values("scale").tolist()
    return mean_over_seeds(difference, scales, least=-1.0, most=1.0)


def _share(row: Mapping[Any, Any] | pd.Series) -> str:
    return f"{row['leads']}/{row['events']}"
