"""Progress of a sweep: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from geomfast.runs.executors.events import TERMINAL, Event

#: Seconds between two plain lines of a run.
_LINE_EVERY = 15.0


class Bars:
    """One bar for each running cell and one for all, with the time that is left."""

    def __init__(self, console: Console, steps: int, runs: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._steps = steps
        self._bars: dict[str, TaskID] = {}
        self._reached: dict[str, int] = {}
        self._total = (
            self._progress.add_task("all runs", total=steps * runs, loss="") if runs > 1 else None
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Take in an event."""
        if event.run not in self._bars:  # started, or failed before it could
            self._bars[event.run] = self._progress.add_task(event.run, total=self._steps, loss="")
        bar = self._bars[event.run]
        if event.kind == "lost":
            line = f"{event.run}: {event.error}"
            self._progress.console.print(line, highlight=False, soft_wrap=True, markup=False)
        # A run resumed half-way starts there: what was done before says nothing about speed.
        if event.step and event.run not in self._reached:
            self._progress.reset(bar, completed=event.step)
        if event.step:
            self._reached[event.run] = event.step
            loss = f"loss {event.state['loss']:.3f}"
            self._progress.update(bar, completed=event.step, loss=loss)
        if event.kind == "finished":
            self._reached[event.run] = self._steps
            self._progress.update(bar, completed=self._steps)
        if event.kind in ("stopped", "failed"):
            self._progress.update(bar, description=f"{event.run} {event.kind}")
            self._progress.stop_task(bar)
        if self._total is not None:
            self._progress.update(self._total, completed=sum(self._reached.values()))


class Lines:
    """The same as a line now and then, for logs."""

    def __init__(self, console: Console, steps: int, runs: int) -> None:
        self._console = console
        self._steps = steps
        self._runs = runs
        self._ended = 0
        self._shown: dict[str, float] = {}
        self._first: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, event: Event) -> None:
        """Take in an event."""
        now = time.monotonic()
        if event.kind == "progress":
            begin, step = self._first.setdefault(event.run, (now, event.step))
            if now - self._shown.get(event.run, 0.0) < _LINE_EVERY:
                return
            self._shown[event.run] = now
            pace = (event.step - step) / max(now - begin, 1e-9)
            left = f", {(self._steps - event.step) / pace:.0f} s left" if pace > 0 else ""
            loss = event.state["loss"]
            self._print(f"{event.run}: step {event.step}/{self._steps}, loss {loss:.3f}{left}")
            return
        note = f": {event.error}" if event.error else ""
        if event.kind in TERMINAL:
            self._ended += 1
            note += f" ({self._ended} of {self._runs} runs)"
        self._print(f"{event.run}: {event.kind}{note}")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def display(console: Console, steps: int, runs: int) -> Bars | Lines:
    """Bars where someone watches a terminal, lines where output goes to a file or a pipe."""
    return Bars(console, steps, runs) if console.is_terminal else Lines(console, steps, runs)
