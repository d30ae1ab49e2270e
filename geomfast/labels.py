"""Labels of layers and of samples, as records have them."""

from __future__ import annotations

import math
import re

#: A number of parameters in a model's name: 70m, 1.4b, 2.8B.
_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([kmbt])(?![a-z0-9])", re.IGNORECASE)
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}

FINAL = "final"
#: Task and level of a value over all task-levels of a run.
MIXTURE = ("", 0)


def block(index: int) -> str:
    """Label of the output of transformer block ``index`` (counted from 1)."""
    return f"block {index}"


def layer_depth(label: str) -> float:
    """Position of a layer label in the network: 0 for none, 1..L for blocks, infinity for final."""
    if label == "":
        return 0.0
    if label == FINAL:
        return math.inf
    return float(label.removeprefix("block "))


def size_in(name: str) -> float:
    """Number of parameters that a model's name tells, as 1.4e9 in ``pythia-1.4b``; NaN for none."""
    found = _SIZE.search(name)
    return float(found[1]) * _UNITS[found[2].lower()] if found else math.nan


def layers(count: int) -> list[str]:
    """Labels of activations as :func:`~geomfast.estimators.activations.observe` orders them."""
    return [*(block(i) for i in range(1, count)), FINAL]
