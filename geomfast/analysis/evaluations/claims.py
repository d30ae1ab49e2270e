"""What arXiv:2602.15997 says of Pythia, which needs geometry and the behaviour of benchmarks."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from geomfast.analysis.claim import DOES_NOT, HOLDS, PARTLY, Claim
from geomfast.analysis.claims.rates import (
    HALF,
    RARE,
    RELIABLE,
    RULE,
    TOO_COARSE,
    outcome_text,
    with_rate,
)
from geomfast.analysis.claims.wording import counted, percent, sample, span
from geomfast.analysis.collapse import collapse
from geomfast.analysis.intervals import share_over_seeds
from geomfast.analysis.leads import leads
from geomfast.records import FINAL

#: Least fall of RankMe, as a share of its first value, that counts as a collapse.
LEAST_FALL = 0.1
#: Fewest checkpoints of a trajectory that can fall and recover.
LEAST_CHECKPOINTS = 8
NO_GEOMETRY = (
    "no geometry: measure the same checkpoints with geomfast measure, into the same folder"
)

GLOBAL = Claim(
    name="pythia_global",
    title="Pythia collapses and recovers",
    statement="RankMe of the final state falls early in training, and recovers later.",
    criterion=(
        f"A set of samples counts if its RankMe falls by {percent(LEAST_FALL)} of its first value "
        "or more and recovers half of the fall. Holds if at least "
        f"{percent(RELIABLE)} of the sets do, and the lower end of the interval over models is "
        f"above {percent(HALF)}; partly if more than {percent(HALF)} do."
    ),
    unit="share",
)
TASKS = Claim(
    name="pythia_tasks",
    title="No precursor of single tasks",
    statement="RankMe of samples of a task's kind does not change before the task rises.",
    criterion=(
        f"{RULE}A task emerges here when it rises above chance by two standard errors, for three "
        f"checkpoints, and above its first value. Holds if the precursor rate is at most "
        f"{percent(RARE)} and the upper end of its interval below {percent(HALF)}; partly if it is "
        f"below {percent(HALF)}. {TOO_COARSE}"
    ),
    unit="share",
)


def pythia_global(geometry: pd.DataFrame) -> Claim:
    """Whether RankMe of the final state falls and recovers, over sets of samples and models.

    Args:
        geometry: records of measures.
    """
    rows = geometry[(geometry["measure"] == "rankme") & (geometry["layer"] == FINAL)]
    if rows.empty:
        return GLOBAL.undecided("no rankme of a final state" if len(geometry) else NO_GEOMETRY)
    table = collapse(rows)
    known = table[table["checkpoints"] >= LEAST_CHECKPOINTS]
    if known.empty:
        most = int(table["checkpoints"].max())
        why = f"{most} checkpoints; at least {LEAST_CHECKPOINTS} are needed"
        return replace(GLOBAL, table=table).undecided(why)
    both = (known["depth"] >= LEAST_FALL) & known["recovered"].astype(bool)
    share = share_over_seeds(both, known["run"], known["scale"])
    verdict = HOLDS if share.value >= RELIABLE and share.low > HALF else DOES_NOT
    if verdict == DOES_NOT and share.value > HALF:
        verdict = PARTLY
    depth, when = known["depth"].median(), known["floor_step"].median()
    reason = f"{int(both.sum())} of {len(known)} sets; median fall {percent(depth)}, at {when:,.0f}"
    measured = f"{span(share, percent)}; {sample(counted(known))}"
    return replace(GLOBAL, table=table).judged(verdict, reason, share, measured, n=counted(known))


def pythia_tasks(both: pd.DataFrame, rises: pd.DataFrame) -> Claim:
    """Precursor rate of RankMe beside every benchmark.

    Args:
        both: records of :func:`geomfast.analysis.evaluations.joined`.
        rises: rows of :func:`geomfast.analysis.evaluations.rises` for its behaviour.
    """
    if both.empty:
        return TASKS.undecided(NO_GEOMETRY)
    table = leads(both, measures=("rankme",), events=rises)
    claim, found = with_rate(TASKS, both, table, "rankme")
    if claim.reason:
        return claim
    verdict = PARTLY if found["rate"] < HALF else DOES_NOT
    if found["rate"] <= RARE and found["high"] < HALF:
        verdict = HOLDS
    return replace(claim, verdict=verdict, reason=outcome_text(found))
