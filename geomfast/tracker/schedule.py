"""The steps at which a tracker's measures are due."""

from __future__ import annotations

import math
import operator
from numbers import Integral
from typing import Any

#: Steps between two doublings of the step, for ``every="log"``.
PER_DOUBLING = 4


def check_every(every: Any) -> str | int:
    """``every`` as "log" or an int; any integer type is accepted, also NumPy's.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(every, str) and every == "log":
        return every
    if isinstance(every, bool) or not isinstance(every, Integral) or operator.index(every) < 1:
        raise ValueError(f'every must be "log" or a number of steps, 1 or more, not {every!r}')
    return operator.index(every)


def due(step: int, every: str | int) -> bool:
    """Whether a measurement is due after a number of optimiser steps.

    Args:
        step: 0 for the untrained network, which always is.
        every: ``"log"`` for 0, 1, 2, ... 8, 10, 11, 13, 16, 19, ...: the powers of 2 and three
            steps between them, the same ones wherever a run is resumed; or a number of steps.
    """
    if isinstance(every, int):
        return step % every == 0
    return step == 0 or _on_grid(round(PER_DOUBLING * math.log2(step))) == step


def due_between(first: int, last: int, every: str | int) -> int:
    """Number of measurements due from one step to another, both included."""
    if isinstance(every, int):
        return max(last // every - (first - 1) // every, 0)
    end = math.ceil(PER_DOUBLING * math.log2(max(last, 1))) + 1
    grid = {0, *(_on_grid(i) for i in range(end))}
    return sum(first <= step <= last for step in grid)


def _on_grid(index: int) -> int:
    return round(2 ** (index / PER_DOUBLING))
