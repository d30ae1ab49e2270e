"""Ctrl-C and SIGTERM as a question that long work asks, so that it can finish a write first."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from geomfast.runs.outcome import STOPPED


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Inside, both signals only note that a stop is asked for; gives what says whether it is.

    A second Ctrl-C ends the command at once: what was written stays, whole or absent.

    Raises:
        SystemExit: at a second Ctrl-C, once all that was entered inside has been left.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        impatient = number == signal.SIGINT and number in asked
        asked.append(number)
        if impatient:
            raise KeyboardInterrupt

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    except KeyboardInterrupt:
        print("Aborted. Run the same command again to resume.", file=sys.stderr)
        raise SystemExit(STOPPED) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
