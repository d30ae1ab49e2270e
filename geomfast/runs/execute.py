"""The event loop of every command that does work: starts it, and records failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, Protocol

from geomfast.runs.executors.engine import Engine
from geomfast.runs.executors.events import TERMINAL, Event, Work
from geomfast.runs.failures import clear_failure, mark_failed


class Display(Protocol):
    """A context that shows the progress of work."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, event: Event) -> None:
        """Take in an event."""
        ...


def execute(
    out: Path,
    work: Sequence[Work],
    engine: Engine,
    stop: Callable[[], bool],
    display: Display,
    *,
    succeeded: Iterable[str] = (),
    results: Callable[[Work, Event], list[Event]] = lambda work, event: [event],
    waiting: AbstractContextManager[Any] | None = None,
    here: bool = False,
) -> dict[str, Event]:
    """Do work and handle its events.

    If a piece of work fails, the others continue; the reason is in OUT/failures until it succeeds.

    Args:
        out: folder of the results, whose lock the caller holds.
        work: what is left to do.
        engine: where it is done.
        stop: asked several times a second; when true no work is started any more, and what runs
            is told to save its state and leave.
        display: entered once the engine is ready; shown every event.
        succeeded: names of what needs no work any more, whose failures are forgotten.
        results: the last event of a piece of work as that of each of the runs it consists of. One
            that failed in work that has finished has written down why by itself.
        waiting: entered until the engine is ready.
        here: see :meth:`geomfast.runs.executors.engine.Engine.opened`.

    Returns:
        The last event of everything that was started, by its name.

    Raises:
        PlanError: a Ray cluster cannot do the work.
    """
    ended: dict[str, Event] = {}
    named = {each.name: each for each in work}
    for name in succeeded:
        clear_failure(out, name)

    def hear(event: Event) -> None:
        display.show(event)
        if event.kind not in TERMINAL:
            return
        for own in results(named[event.run], event):
            ended[own.run] = own
            if event.kind == "failed":
                mark_failed(out, own.run, own.step, own.error, own.details)
            elif own.kind == "finished":
                clear_failure(out, own.run)

    with ExitStack() as stack:
        with waiting or nullcontext():
            run = stack.enter_context(engine.opened(work, stop, here=here))
        stack.enter_context(display)
        run(hear)
    return ended
