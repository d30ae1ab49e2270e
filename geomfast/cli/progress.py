"""Progress of work: bars in a terminal, plain lines elsewhere; its activity and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
)
from rich.text import Text

from geomfast.cli.outcome import duration
from geomfast.runs.executors.engine import Engine
from geomfast.runs.executors.events import TERMINAL, Event
from geomfast.runs.remaining import Piece, Remaining, recorded_rates

#: Seconds between two plain lines of a run.
_LINE_EVERY = 15.0


class _Shown:
    """Base of bars and lines.

    Args:
        console: console to print on.
        pieces: all work that is left.
        remaining: estimate of the time left; None to learn from nothing but the events.
    """

    def __init__(
        self, console: Console, pieces: Iterable[Piece], remaining: Remaining | None = None
    ) -> None:
        self._console = console
        self._pieces = {piece.name: piece for piece in pieces}
        self._remaining = remaining or Remaining(self._pieces.values(), 1)
        self._began = time.monotonic()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _total(self, run: str) -> int:
        piece = self._pieces[run]
        return max(piece.lacking, default=0) if piece.trains else len(piece.lacking)

    def _completed(self, event: Event) -> int:
        """Steps trained, or checkpoints measured or failed."""
        if self._pieces[event.run].trains:
            return event.step
        return round(event.state.get("measured", 0.0) + event.state.get("failed", 0.0))

    def _times(self) -> str:
        left = self._remaining.seconds()
        told = "time left not known yet" if left is None else f"about {duration(left)} left"
        return f"elapsed {duration(time.monotonic() - self._began)}, {told}"

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


class _WithTimes(Progress):
    """Bars, and below them a line with the time elapsed and the time left."""

    def __init__(
        self, times: Callable[[], str], *columns: ProgressColumn, console: Console
    ) -> None:
        self._times = times
        super().__init__(*columns, console=console)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self._times())


class Bars(_Shown):
    """One bar for each run, and one for all."""

    def __init__(
        self, console: Console, pieces: Iterable[Piece], remaining: Remaining | None = None
    ) -> None:
        super().__init__(console, pieces, remaining)
        self._progress = _WithTimes(
            self._times,
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[doing]}"),
            TextColumn("{task.fields[loss]}"),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}
        self._reached: dict[str, int] = {}
        self._all = self._add("all", sum(map(self._total, self._pieces)), self._pieces.values())
        self._progress.update(self._all, visible=len(self._pieces) > 1)

    def _add(self, name: str, total: int, pieces: Iterable[Piece]) -> TaskID:
        unit = "steps" if all(piece.trains for piece in pieces) else "checkpoints"
        return self._progress.add_task(name, total=total, unit=unit, doing="", loss="")

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Take in an event."""
        self._remaining.hear(event)
        run = event.run
        if run not in self._bars:  # started, or failed before it could
            self._bars[run] = self._add(run, self._total(run), [self._pieces[run]])
        bar = self._bars[run]
        first, _, more = event.doing.partition(", ")
        self._progress.update(bar, doing=f"{first}{' ...' * bool(more)}")
        if event.kind == "lost":
            self._print(f"{run}: {event.error}")
        if completed := self._completed(event):
            self._reached[run] = completed
            self._progress.update(bar, completed=completed)
        if event.step and "loss" in event.state:
            self._progress.update(bar, loss=f"loss {event.state['loss']:.3f}")
        if event.kind == "finished":
            self._reached[run] = self._total(run)
            self._progress.update(bar, completed=self._total(run))
        if event.kind in TERMINAL:
            self._progress.update(bar, doing=event.kind)
            self._progress.stop_task(bar)
        self._progress.update(self._all, completed=sum(self._reached.values()))


class Lines(_Shown):
    """Progress as a line every few seconds, for logs."""

    _shown: dict[str, float]

    def __enter__(self) -> Lines:
        self._shown, self._ended, self._reached = {}, 0, dict.fromkeys(self._pieces, 0)
        return self

    def show(self, event: Event) -> None:
        """Take in an event."""
        self._remaining.hear(event)
        if event.kind == "progress":
            self._show_progress(event)
            return
        # Why a run failed stands in the outcome, once.
        note = f": {event.error}" if event.kind == "lost" else ""
        if event.kind in TERMINAL:
            self._ended += 1
            note += f" ({self._ended} of {len(self._pieces)} runs)" * (len(self._pieces) > 1)
        self._print(f"{event.run}: {event.kind}{note}")

    def _show_progress(self, event: Event) -> None:
        run, completed, now = event.run, self._completed(event), time.monotonic()
        trains = self._pieces[run].trains
        recent = now - self._shown.get(run, self._began) < _LINE_EVERY
        # Every checkpoint of a series has a line.
        if recent and (trains or completed == self._reached[run]):
            return
        self._reached[run], self._shown[run] = completed, now
        unit = (
            f"step {event.step}/{self._total(run)}"
            if trains
            else (f"step {event.step}, {completed} of {self._total(run)} checkpoints")
        )
        loss = f"loss {event.state['loss']:.3f}" if event.step and "loss" in event.state else ""
        told = ", ".join(part for part in (unit, loss, event.doing, self._times()) if part)
        self._print(f"{run}: {told}")


def display(
    console: Console,
    pieces: Sequence[Piece],
    engine: Engine,
    out: Path,
    calls: Sequence[Any] = (),
) -> Bars | Lines:
    """Bars if the console is a terminal, lines if output goes to a file or a pipe.

    Args:
        console: console to print on.
        pieces: all work that is left.
        engine: engine that does it.
        out: folder whose records say how long such work takes.
        calls: calls that its ``settings.json`` lists.
    """
    rates = recorded_rates(out, calls, engine.device)
    remaining = Remaining(pieces, engine.workers or 1, rates)
    return (Bars if console.is_terminal else Lines)(console, pieces, remaining)
