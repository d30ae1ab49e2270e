"""Processes that end with the one that has started them, however that has ended.

A process that is killed outright tells nothing to those it has started. The system does: it closes
the killed one's end of a pipe that every child of :mod:`multiprocessing` holds the other end of.
That works from the child's first moment on, also for a parent that is gone by then, and a thread
waits for it from before the first import that takes long.  No torch here for that reason.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

#: Seconds that an orphan has to save its state; files are whole or absent whenever it ends.
GRACE = 3.0
#: Seconds between two looks at who the parent is.
_LOOK_EVERY = 0.5

_begun, _orphaned = threading.Event(), threading.Event()


def body_of(function: Callable[..., None], *args: Any) -> bytes:
    """A function and its arguments, pickled, so that only :func:`watched` imports them."""
    return pickle.dumps((function, args))


def watched(body: bytes, connection: Connection, grace: float = GRACE) -> None:
    """Body of a process that ends with its parent.

    Args:
        body: of :func:`body_of`.
        connection: the function's last argument.
        grace: seconds between the parent's end, which :func:`orphaned` tells, and this one's.
    """
    end_with_parent(grace)
    function, args = pickle.loads(body)
    _begun.set()
    function(*args, connection)


def end_with_parent(grace: float = 0.0) -> None:
    """End this process so many seconds after the one that has started it, whatever it does then."""
    threading.Thread(target=_watch, args=(grace,), name="parent", daemon=True).start()


def orphaned() -> bool:
    """Whether the parent process has ended."""
    return _orphaned.is_set()


def _watch(grace: float) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    # The id as well: a copy of the pipe's end in a third process would hide that the parent's is
    # closed. It is the parent's own account of itself, not what is read here, perhaps too late.
    while parent.is_alive() and os.getppid() == parent.pid:
        parent.join(_LOOK_EVERY)
    _orphaned.set()
    if _begun.is_set():  # else there is nothing to save
        time.sleep(grace)
    if os.getpgrp() == os.getpid():  # with all that it has started in a group of its own
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
