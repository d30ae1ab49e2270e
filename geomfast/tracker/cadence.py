"""How many steps of a run were due and measured, by this tracker and by those before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from geomfast.tracker.budget import Budget


class Cadence:
    """Counts of steps, as the settings note them of a run.

    Steps that a resumed training comes through again are counted once, also where the tracker
    before left them out.

    Args:
        noted: what the settings say of the run so far; empty for a new one.
        recorded: steps in its records.

    Attributes:
        due, measured: steps of this tracker.
        thinned_from: the first that the budget left out; None where it has left out none.
    """

    def __init__(self, noted: Mapping[str, Any], recorded: Iterable[int]):
        self.due, self.measured = 0, 0
        self.thinned_from: int | None = None
        self._noted = dict(noted)
        self._until: int = self._noted.get("until", max(recorded, default=-1))
        self._last, self._new = self._until, 0

    def is_due(self, step: int) -> None:
        """Counts a step that is due."""
        self.due += 1
        self._new += step > self._last
        self._last = max(self._last, step)

    def thin(self, step: int) -> None:
        """Notes that a step which is due is left out."""
        if self.thinned_from is None:
            self.thinned_from = step

    def note(self, every: str | int, budget: Budget, recorded: int) -> dict[str, Any]:
        """What the settings are to say of the run.

        Args:
            every: as in :func:`geomfast.tracker.budget.due`.
            budget: of this tracker.
            recorded: steps in the records.
        """
        before = self._noted.get("thinned_from")
        told = {
            "every": every,
            "max_overhead": budget.share,
            "total_steps": budget.total,
            "overhead": budget.overhead,
            "due": self._noted.get("due", 0) + self._new,
            "until": self._last,
            "measured": recorded,
            "thinned_from": self.thinned_from if before is None else before,
        }
        if before is not None:  # a budget that may have been another one
            told["thinned_by"] = self._noted.get("thinned_by", self._noted.get("max_overhead"))
        elif self.thinned_from is not None:
            told["thinned_by"] = budget.share
        return told
