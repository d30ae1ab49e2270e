"""Notices of a tracker, each given once, and its failures."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

from geomfast.runs.failures import clear_failure, mark_failed

logger = logging.getLogger("geomfast")


class Notices:
    """Logs notices and failures of a run.

    Args:
        out: folder of the records.
        run: name of the run.

    Attributes:
        failures: the first of every kind.
    """

    def __init__(self, out: Path, run: str):
        self.out, self.run = out, run
        self.failures: dict[str, Exception] = {}
        self._said: set[str] = set()

    def notice(self, said: str) -> None:
        """Log a notice the first time it is given."""
        if said not in self._said:
            self._said.add(said)
            logger.warning(said)

    def fail(self, what: str, error: Exception, step: int) -> None:
        """Note a failure in OUT/failures; only the first of a kind is logged."""
        if what not in self.failures:
            self.failures[what] = error
            logger.warning(
                "%s failed at step %d, training goes on: %s: %s",
                what,
                step,
                type(error).__name__,
                error,
            )
        details = "".join(traceback.format_exception(error))
        said = f"{what}: {type(error).__name__}: {error}"
        mark_failed(self.out, self.run, step, said, details)

    def clear(self) -> None:
        """Remove what was noted of failures before, where there was none."""
        if not self.failures:
            clear_failure(self.out, self.run)
