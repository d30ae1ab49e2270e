"""What a process is doing: its name goes to a listener, so that progress can show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

#: Called with the name of an activity and, where it is known, the step of the checkpoint.
Listener = Callable[[str, int | None], None]

_listener: ContextVar[Listener | None] = ContextVar("geomfast_activity", default=None)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Within the context, activities of this thread are announced to a listener."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


def announce(activity: str, step: int | None = None) -> None:
    """Say what begins: training, writing, or the names of measures, separated by commas."""
    listener = _listener.get()
    if listener is not None:
        listener(activity, step)
