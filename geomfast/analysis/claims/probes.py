"""The claim that hidden states hold the answer before the model gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from geomfast.analysis.claim import DOES_NOT, HOLDS, PARTLY, Claim
from geomfast.analysis.claims.wording import counted, missing, percent, sample, several, span
from geomfast.analysis.intervals import share_over_seeds
from geomfast.analysis.probes import (
    BEHAVIOUR,
    EVENTS,
    FIRST_TOKEN,
    FROM_THE_START,
    MEASURE,
    PROBE,
    TIE,
    WHOLE_ANSWER,
    probe_leads,
)

#: Share of first places from which the probe is reliably first; half of them; fewest events.
RELIABLE, HALF, LEAST_EVENTS = 0.75, 0.5, 4

PROBE_FIRST = Claim(
    name="probe_first",
    title="Probes find the answer first",
    statement="A linear probe reads the answer off a hidden state before the model gives it.",
    criterion=(
        "Like for like: probe and model are both asked for the first answer token, and held to "
        "the same accuracy, halfway from what can be read off the first checkpoint (or guessed) "
        "to 1, for 5 checkpoints; the probe is that of the layer that gets there first. Holds if "
        f"the probe is first on {percent(RELIABLE)} of the task-levels the model gets there on, "
        f"with the lower end of the interval above {percent(HALF)}; partly if it is first more "
        "often than second. Intervals between checkpoints that overlap are a tie and count for "
        "neither. Left out: task-levels the model never got to or only for the last few "
        f"checkpoints, and those that can be read at {percent(FROM_THE_START)} from the start. "
        "Where the model's own first token is not recorded, emergence of the whole answer stands "
        "for it; that favours the probe, so the claim then holds partly at best."
    ),
    unit="share",
)


def probe_first(records: pd.DataFrame, *, chance: Mapping[str, float] | None = None) -> Claim:
    """How often a linear probe finds the answer before the model gives it.

    The table is that of :func:`geomfast.analysis.probe_leads`, against the model's
    first token where it is recorded, else against the whole answer.
    """
    alike, whole_answer = (not missing(records, name) for name in (FIRST_TOKEN, WHOLE_ANSWER))
    if why := missing(records, MEASURE) or ("" if alike else missing(records, WHOLE_ANSWER)):
        return PROBE_FIRST.undecided(why)
    behaviour = FIRST_TOKEN if alike else WHOLE_ANSWER
    table = probe_leads(records, chance=chance, behaviour=behaviour)
    events = table[table["outcome"].isin(EVENTS)]
    counts = {name: int((events["outcome"] == name).sum()) for name in EVENTS}
    share = share_over_seeds(events["outcome"] == PROBE, events["run"], events["scale"])
    left_out = table.loc[~table["outcome"].isin(EVENTS), "outcome"].value_counts()
    told = ", ".join(f"{count} {name}" for name, count in left_out.items()) or "none"
    n = counted(events) | {"events": len(events), "left out": len(table) - len(events)}
    claim = replace(PROBE_FIRST, n=n, table=table)
    if len(events) < LEAST_EVENTS:
        reason = (
            f"{several(len(events), 'event')}, at least {LEAST_EVENTS} are needed; left out: {told}"
        )
        return claim.undecided(reason)
    verdict = PARTLY if counts[PROBE] > counts[BEHAVIOUR] else DOES_NOT
    if alike and share.value >= RELIABLE and share.low > HALF:
        verdict = HOLDS
    layers = events.loc[events["outcome"] == PROBE, "layer"].mode()
    where = f", most often at {layers.iloc[0]}" if len(layers) else ""
    beside = "the model's own first token is not recorded"
    if alike and whole_answer:
        whole = probe_leads(records, chance=chance)
        whole = whole[whole["outcome"].isin(EVENTS)]
        first = int((whole["outcome"] == PROBE).sum())
        beside = f"before the whole answer on {first} of {len(whole)}"
    reason = (
        f"the probe is first on {counts[PROBE]} of {len(events)} task-levels{where}, tied on "
        f"{counts[TIE]}, second on {counts[BEHAVIOUR]}; {beside}; left out: {told}"
    )
    measured = f"{span(share, percent)}; {sample(counted(events))}"
    return claim.judged(verdict, reason, share, measured)
