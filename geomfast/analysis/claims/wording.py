"""Numbers in the words of a claim."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from geomfast.analysis.intervals import Estimate


def missing(records: pd.DataFrame, *measures: str) -> str:
    """*no rankme in the records*, of the first of some measures that is not there, or nothing."""
    there = set(records["measure"].unique())
    return next((f"no {name} in the records" for name in measures if name not in there), "")


def percent(share: float) -> str:
    """A share as whole percents."""
    return f"{100 * share:.0f}%"


def span(estimate: Estimate, show: Callable[[float], str]) -> str:
    """A value and its interval, if it has one: ``96% (95% interval 88% to 99%)``."""
    text = show(estimate.value)
    if math.isnan(estimate.low):
        return text
    return f"{text} (95% interval {show(estimate.low)} to {show(estimate.high)})"


def several(count: int, name: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count:,} {name}" + ("" if count == 1 else "s")


def listed(names: list[str], most: int = 5) -> str:
    """``a, b and 3 more``."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def counted(table: pd.DataFrame) -> dict[str, int]:
    """Numbers of runs, scales, seeds and task-levels in the rows of a table."""
    return {
        "runs": table["run"].nunique(),
        "scales": table["scale"].nunique(),
        "seeds": table["seed"].nunique(),
        "task-levels": len(table[["task", "level"]].drop_duplicates()),
    }


def sample(n: dict[str, int]) -> str:
    """The numbers of :func:`counted` as text."""
    return ", ".join(several(count, name.removesuffix("s")) for name, count in n.items())
