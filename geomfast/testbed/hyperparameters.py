"""Hyperparameters that a sweep can vary, and how the name of a run says them. Needs no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from geomfast.testbed.models.scales import SCALES

#: The name of a sweep's run: mixture, scale, what varies, seed.
_NAMED = re.compile(
    rf".+-(?:{'|'.join(SCALES)})"
    r"(?:-lr(\d[\d.]*(?:e[+-]?\d+)?))?(?:-warmup(\d+))?-seed\d+"
)


@dataclass(frozen=True)
class Hyperparameters:
    """What runs of one scale can differ in beside their seed; None where a sweep does not vary it.

    Attributes:
        learning_rate: peak of the schedule.
        warmup: steps of linear warm-up.
    """

    learning_rate: float | None = None
    warmup: int | None = None

    @property
    def label(self) -> str:
        """As in a run's name, for instance ``lr0.001-warmup20``; empty where nothing varies."""
        rate, steps = self.learning_rate, self.warmup
        parts = [] if rate is None else [f"lr{shown_rate(rate)}"]
        return "-".join(parts if steps is None else [*parts, f"warmup{steps}"])

    @property
    def order(self) -> tuple[float, int]:
        """Ascending rates, then ascending warm-ups; what is not varied comes first."""
        return (self.learning_rate or 0.0, -1 if self.warmup is None else self.warmup)

    def __str__(self) -> str:
        rate, steps = self.learning_rate, self.warmup
        parts = [] if rate is None else [f"learning rate {shown_rate(rate)}"]
        parts += [] if steps is None else [f"warm-up {steps}"]
        return ", ".join(parts) or "the scale's own learning rate"


#: Of runs whose sweep varies none.
USUAL = Hyperparameters()


def shown_rate(rate: float) -> str:
    """All digits of a rate, and no more: 0.0003, 1e-05."""
    return repr(float(rate)).removesuffix(".0")


def of_run(name: str) -> Hyperparameters:
    """What the name of a run says of its hyperparameters; nothing where no sweep gave it."""
    found = _NAMED.fullmatch(name)
    rate, steps = found.groups() if found else (None, None)
    return Hyperparameters(
        None if rate is None else float(rate), None if steps is None else int(steps)
    )
