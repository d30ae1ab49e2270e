"""At how many steps a run's measures were due and measured, by this tracker and those before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from geomfast.tracker.budget import Budget, Group


class Cadence:
    """Counts of steps, as the settings note them of a run.

    Steps that a resumed training comes through again are counted once, also where the tracker
    before left them out.

    Args:
        noted: what the settings say of the run so far; empty for a new one.
        recorded: steps in its records.
        groups: of measures.

    Attributes:
        due: steps of this tracker.
        measured: those at which it measured a group.
        thinned_from: the first step at which the budget left out a group, where it has.
    """

    def __init__(
        self, noted: Mapping[str, Any], recorded: Iterable[int], groups: Iterable[Group] = ()
    ):
        self.due = 0
        self.measured = dict.fromkeys(groups, 0)
        self.thinned_from: dict[Group, int] = {}
        self._noted = dict(noted)
        self._until: int = self._noted.get("until", max(recorded, default=-1))
        self._last, self._new = self._until, 0

    @property
    def lacking(self) -> dict[Group, int]:
        """The groups that were not measured at every due step, and at how many not."""
        return {group: self.due - n for group, n in self.measured.items() if n < self.due}

    def is_due(self, step: int) -> None:
        """Counts a step that is due."""
        self.due += 1
        self._new += step > self._last
        self._last = max(self._last, step)

    def take(self, groups: Iterable[Group]) -> None:
        """Counts a measurement of some groups."""
        for group in groups:
            self.measured[group] += 1

    def thin(self, step: int, groups: Iterable[Group]) -> None:
        """Notes groups that are left out of a step which is due."""
        for group in groups:
            self.thinned_from.setdefault(group, step)

    def note(
        self, every: str | int, budget: Budget, recorded: Mapping[int, Iterable[str]]
    ) -> dict[str, Any]:
        """Settings of a run's cadence for ``settings.json``.

        Args:
            every: as in :func:`geomfast.tracker.schedule.due`.
            budget: of this tracker.
            recorded: measures in the records, by step.
        """
        before = self._noted.get("thinned_from")
        first = min(self.thinned_from.values(), default=None)
        told = {
            "every": every,
            "max_overhead": budget.share,
            "total_steps": budget.total,
            "overhead": budget.overhead,
            "due": self._noted.get("due", 0) + self._new,
            "until": self._last,
            "measured": len(recorded),
            "thinned_from": first if before is None else before,
            "measures": self._of_measures(recorded),
        }
        if before is not None:  # a budget that may have been another one
            told["thinned_by"] = self._noted.get("thinned_by", self._noted.get("max_overhead"))
        elif first is not None:
            told["thinned_by"] = budget.share
        return told

    def _of_measures(self, recorded: Mapping[int, Iterable[str]]) -> dict[str, dict[str, Any]]:
        """The counts of each measure; of one that is new, the steps before it were not due."""
        noted = dict(self._noted.get("measures", {}))
        # Trackers before these counts measured all that they measured at the same steps.
        old = {name for names in recorded.values() for name in names} if not noted else set()
        before = {key: self._noted[key] for key in ("due", "thinned_from") if key in self._noted}
        for group in self.measured:
            for name in group.names:
                told = noted.get(name, before if name in old else {})
                first = told.get("thinned_from")
                noted[name] = {
                    "due": told.get("due", 0) + self._new,
                    "measured": sum(name in names for names in recorded.values()),
                    "thinned_from": self.thinned_from.get(group) if first is None else first,
                }
        return noted
