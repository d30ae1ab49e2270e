"""Short names of tasks, steps and measures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from geomfast.measures import catalog
from geomfast.report.figures.leads import NAMES
from geomfast.report.names import one_line

_LONGEST = 40


def task_name(task: str, members: Mapping[str, int]) -> str:
    """A task as figures and tables have it; a collection with the number of its tasks."""
    if task in members:
        return f"{task}, all {members[task]} tasks"
    text = one_line(task).removeprefix("hendrycksTest-").replace("_", " ")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def short_step(step: float) -> str:
    """A step in few letters: 512, 1k, 143k, 1.5M; a dash for NaN."""
    if math.isnan(step):
        return "–"
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if step >= size:
            return f"{step / size:.3g}{unit}"
    return f"{step:.0f}"


def measure_name(measure: str) -> str:
    """A measure as figures name it."""
    spec = catalog().specs.get(measure)
    return NAMES.get(measure) or (spec.label if spec else measure.replace("_", " "))
