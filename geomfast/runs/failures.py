"""Runs that failed: a text file each in OUT, until they succeed."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path

from geomfast.files import inside, printable, write_atomically

logger = logging.getLogger("geomfast")
_FOLDER = "failures"


def mark_failed(out: Path, run: str, step: int, error: str, details: str) -> None:
    """Write down why a run failed; a later failure of the run takes its place.

    If the disk is full, often the cause, the failure is logged instead and other work continues.

    Args:
        out: the sweep's folder.
        run: name of the run.
        step: that it had reached.
        error: in one line, or a few.
        details: the traceback; empty where there is none, as for a process that was killed.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    text = f"{error}\n\n{run} failed at step {step}, {now}\n"
    if details:
        text += f"\n{details.rstrip()}\n"
    try:
        write_atomically(_file(out, run), text.encode("utf-8", "backslashreplace"))
    except OSError as full:
        logger.warning("why %s failed cannot be written down: %s", run, full)


def clear_failure(out: Path, run: str) -> None:
    """Forget that a run failed, for it has succeeded."""
    _file(out, run).unlink(missing_ok=True)


def failed_before(out: Path) -> dict[str, str]:
    """Runs that failed when they were last tried, with the first line of why."""
    found = {}
    for path in sorted((out / _FOLDER).glob("*.txt")):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:  # a folder of that name, say
            continue
        found[printable(path.stem)] = printable(lines[0]) if lines else ""
    return found


def _file(out: Path, run: str) -> Path:
    return inside(out, _FOLDER, f"{run}.txt")
