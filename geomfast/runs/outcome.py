"""Outcome of a command as plain values; every command has the same keys and exit codes.

An outcome has the keys ``out``; ``state``, that of the whole; ``results``, each with its ``name``
and its ``state`` (finished, stopped, failed), and where something was done the ``step`` reached and
seconds, where it failed ``error``, ``explained`` and ``details``; ``failures``, why by name, as
OUT/failures has them; and ``notices``, each with the number of checkpoints it is of.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomfast.runs.failures import failed_before

if TYPE_CHECKING:  # which brings torch with it
    from geomfast.runs.executors.events import Event

#: Exit codes of every command that does work.
DONE, FAILED, BAD_USAGE, STOPPED = 0, 1, 2, 130
_CODES = {"finished": DONE, "failed": FAILED, "stopped": STOPPED}


def result(name: str, event: Event | None, *, left: bool, **facts: Any) -> dict[str, Any]:
    """Result of one run, group or job.

    Args:
        name: of the run, group or job.
        event: its last; None where it was not started.
        left: whether something was left to do of it.
        facts: of it, that a reader needs beside its name.
    """
    state = event.kind if event else ("stopped" if left else "finished")
    told = {"name": name, **facts, "state": state}
    if event is None:
        return told
    # A loss that is not finite has no number in JSON.
    reached = {key: value if math.isfinite(value) else None for key, value in event.state.items()}
    told |= {"step": event.step, **reached}
    if event.error:
        told |= {"error": event.error, "explained": event.explained, "details": event.details}
    return told


def outcome_of(
    out: Path,
    results: list[dict[str, Any]],
    names: Collection[str],
    final: Collection[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """The outcome of a command.

    Args:
        out: folder of the results.
        results: see :func:`result`.
        names: that failures of what was asked for are written down under.
        final: those of them that no further attempt changes, so that they fail the whole.
        more: other keys.
    """
    failures = {name: why for name, why in failed_before(out).items() if name in names}
    states = {each["state"] for each in results}
    state = "stopped" if "stopped" in states else "finished"
    if "failed" in states or not failures.keys().isdisjoint(final):
        state = "failed"
    told = {"out": str(out), "state": state, "results": results, "failures": failures}
    return told | {"notices": notices(out), **more}


def exit_code(outcome: Mapping[str, Any]) -> int:
    """0 if everything requested is done, 1 if something failed, 130 if it was stopped."""
    return _CODES[outcome["state"]]


def notices(out: Path) -> dict[str, int]:
    """Notices in OUT, each with the number of checkpoints that have it."""
    found: dict[str, int] = {}
    for path in sorted((out / "notices").glob("*.txt")):
        for line in path.read_text().splitlines():
            found[line] = found.get(line, 0) + 1
    return found
