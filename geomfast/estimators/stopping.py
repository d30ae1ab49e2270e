"""A question that long measures ask between steps: whether the caller wants them to end.

A measure may take minutes, and a signal only sets a flag. A caller that watches for one says
where that flag is (:func:`stopped_by`); measures look at it on the host, between two steps of a
chain, two products, two parts of a batch, never inside work that a GPU captures and replays.
Outside of that nothing is asked, and no value depends on it either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Stopped(BaseException):
    """A measure that was left in the middle; it has no value.

    Not an error, so that nothing which handles failures takes it for one.
    """


_asked: ContextVar[Callable[[], bool] | None] = ContextVar("geomfast_stop", default=None)


@contextmanager
def stopped_by(stop: Callable[[], bool]) -> Iterator[None]:
    """Inside, measures of this thread end with :class:`Stopped` once a flag is set.

    Args:
        stop: says whether it is; asked often, so it has to be cheap.
    """
    before = _asked.set(stop)
    try:
        yield
    finally:
        _asked.reset(before)


def check_stop() -> None:
    """Leave the measure in hand where that is asked for.

    Raises:
        Stopped: it is.
    """
    stop = _asked.get()
    if stop is not None and stop():
        raise Stopped
