"""Result of testing a claim of the paper on one set of records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from geomfast.analysis.intervals import Estimate
from geomfast.analysis.paper import REFERENCES

Verdict = Literal["holds", "partly", "does not hold", "not enough data"]
HOLDS: Verdict = "holds"
PARTLY: Verdict = "partly"
DOES_NOT: Verdict = "does not hold"
NOT_ENOUGH: Verdict = "not enough data"
VERDICTS: tuple[Verdict, ...] = (HOLDS, PARTLY, DOES_NOT, NOT_ENOUGH)


@dataclass(frozen=True)
class Claim:
    """One claim of arXiv:2602.15997 against one set of records.

    Attributes:
        name: identifier, also the key of :data:`geomfast.analysis.paper.REFERENCES`.
        title: what is claimed, in a few words.
        statement: the claim as it was tested, in one sentence.
        criterion: the rule by which the verdict was reached, with its thresholds.
        verdict: one of :data:`VERDICTS`.
        reason: why this verdict; for "not enough data", what is missing.
        value: the number the verdict rests on; NaN where there is none.
        low, high: its 95% interval, over seeds where they are the statistical unit; NaN where
            there is none.
        unit: of value, low and high ("share", "dimensions", "steps", "Spearman's rho").
        interval: how the interval was made, in a few words; empty where there is none.
        n: what was counted, with how many ("runs", "seeds", "scales", "task-levels", ...).
        measured: value, interval and counts as one line of text.
        table: the rows behind it; empty where there are none.
    """

    name: str
    title: str
    statement: str
    criterion: str
    verdict: Verdict = NOT_ENOUGH
    reason: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    unit: str = ""
    interval: str = ""
    n: Mapping[str, int] = field(default_factory=dict)
    measured: str = ""
    table: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def paper(self) -> dict[str, Any]:
        """The paper's value by version; None where a version says nothing."""
        return {version: values.get(self.name) for version, values in REFERENCES.items()}

    def undecided(self, reason: str, **known: Any) -> Claim:
        """The claim with "not enough data", for this reason, and what is known all the same."""
        return replace(self, verdict=NOT_ENOUGH, reason=reason, **known)

    def judged(
        self, verdict: Verdict, reason: str, estimate: Estimate, measured: str, **known: Any
    ) -> Claim:
        """The claim with a verdict, the estimate that it rests on, and other fields by name."""
        value, low, high, how = estimate.value, estimate.low, estimate.high, estimate.how
        found = {"value": value, "low": low, "high": high, "interval": how, "measured": measured}
        return replace(self, verdict=verdict, reason=reason, **found, **known)
