"""Labels of layers and of samples, as records have them."""

from __future__ import annotations

import math

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


def layers(count: int) -> list[str]:
    """Labels of activations as :func:`~geomfast.estimators.activations.observe` orders them."""
    return [*(block(i) for i in range(1, count)), FINAL]
