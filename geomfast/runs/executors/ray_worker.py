"""Code that runs on the nodes of a Ray cluster: each piece of work in its own actor."""

from __future__ import annotations

import os
import queue
import threading

from geomfast.runs.executors.events import TERMINAL, Event, Work, attempt
from geomfast.runs.executors.ray_node import look

#: Seconds :meth:`Worker.poll_events` waits for an event; the longest delay of a stop.
_WAIT = 0.25
#: See :func:`attempt`. A node cut off from its cluster may take this long to notice.
_PATIENCE = 120.0


class Worker:
    """One attempt at a piece of work, in an actor of its own.

    The work runs in a thread, so that the actor can answer meanwhile.

    Args:
        job: the work.
        token, version: see :func:`look`; the node may have joined the cluster since.
    """

    def __init__(self, job: Work, token: str, version: str) -> None:
        self._news: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stop = threading.Event()
        wrong = look(job.out, token, version)
        if wrong:
            name = job.name
            why = f"node {os.uname().nodename}: {wrong}"
            self._news.put(Event(name, "failed", error=why, explained=True))
            return
        threading.Thread(target=self._run, args=(job,), daemon=True).start()

    def _run(self, job: Work) -> None:
        self._news.put(attempt(job, self._news.put, self._stop.is_set, patience=_PATIENCE))

    def where(self) -> tuple[str, int]:
        """Name of the node and id of the process, for messages."""
        return os.uname().nodename, os.getpid()

    def poll_events(self, stop: bool) -> list[Event]:
        """Events since the last call; waits a moment for one.

        Args:
            stop: ask the work to save its state and stop.

        Returns:
            The last progress, the last event of the run, both, or nothing yet.
        """
        if stop:
            self._stop.set()
        found: list[Event] = []
        try:
            found.append(self._news.get(timeout=_WAIT))
            while True:
                found.append(self._news.get_nowait())
        except queue.Empty:
            pass
        progress = [event for event in found if event.kind not in TERMINAL][-1:]
        return progress + [event for event in found if event.kind in TERMINAL]
