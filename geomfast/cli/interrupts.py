"""Ctrl-C and SIGTERM as a question that long work asks, so that it can finish a write first."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from geomfast.runs.outcome import STOPPED

STOPPING = (
    "Stopping: saving what is done. Ctrl-C again aborts at once; the same command later resumes."
)
ABORTED = "Aborted. Run the same command again to resume."


@contextmanager
def asked_to_stop(console: Console | None = None) -> Iterator[Callable[[], bool]]:
    """Within the context, both signals request a stop; yields a function that says whether one did.

    The first signal is acknowledged at once. A second Ctrl-C ends the command at once: what was
    written stays, whole or absent.

    Args:
        console: console to acknowledge on, for instance above its bars; standard error without.

    Raises:
        SystemExit: at a second Ctrl-C, once all that was entered inside has been left.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and number in asked
        asked.append(number)
        if again:
            raise KeyboardInterrupt
        if len(asked) == 1:
            _acknowledge(console)

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    except KeyboardInterrupt:
        print(ABORTED, file=sys.stderr)
        raise SystemExit(STOPPED) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _acknowledge(console: Console | None) -> None:
    try:
        if console is None or not console.is_terminal:
            raise RuntimeError
        console.print(STOPPING, highlight=False, soft_wrap=True)
    except RuntimeError:  # the signal arrived in the middle of a write to the same stream
        os.write(2, f"{STOPPING}\n".encode())
