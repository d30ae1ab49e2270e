"""What ``geomfast measure`` shows: its progress, and what a dry run finds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from geomfast.cli.outcome import say

if TYPE_CHECKING:  # which bring torch with them
    from geomfast.runs.executors.events import Event
    from geomfast.series.checkpoint import Checkpoint, Series
    from geomfast.series.running import MeasureJob


class Shown:
    """Progress over all checkpoints: a bar in a terminal, a line for each elsewhere."""

    def __init__(self, console: Console, out: Path, jobs: Sequence[MeasureJob]) -> None:
        self._console = console
        self._total = sum(len(job.steps) for job in jobs)
        self._done: dict[str, float] = {}
        self._began = time.monotonic()
        say(self._console, f"Records go to {out}")
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("checkpoints", total=self._total)

    def __enter__(self) -> Shown:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Take in an event."""
        if event.kind in ("lost", "failed"):
            say(self._console, f"{event.run}: {event.error}")
        ended = event.state.get("measured", 0.0) + event.state.get("failed", 0.0)
        if event.kind != "progress" or ended <= self._done.get(event.run, 0.0):
            return
        self._done[event.run] = ended
        count = round(sum(self._done.values()))
        self._progress.update(self._bar, completed=count, description=f"step {event.step}")
        if not self._console.is_terminal:
            pace = (time.monotonic() - self._began) / count
            left = f", {pace * (self._total - count):.0f} s left" if count < self._total else ""
            say(
                self._console,
                f"{event.run}: step {event.step}, {count} of {self._total} checkpoints{left}",
            )


def planned(
    out: Path, series: Sequence[Series], jobs: Sequence[MeasureJob], measures: tuple[str, ...]
) -> dict[str, Any]:
    """What is left, as plain values; nothing is measured.

    Args:
        out: folder of the results, which need not exist.
        series: all that were asked for.
        jobs: what is left of them.
        measures: asked for.
    """
    runs = []
    for one in series:
        own = [job for job in jobs if job.series.run == one.run]
        steps = sorted(step for job in own for step in job.steps)
        told: dict[str, Any] = {"run": one.run, "checkpoints": len(one.checkpoints)}
        told |= {"left": len(steps), "steps": steps}
        first = next((c for c in one.checkpoints if c.step in steps), None)
        size = _bytes_of(one, first) if first else 0
        # Checkpoints of one model are of one size.
        told["download_bytes"] = None if size is None else size * len(steps)
        told["disk_bytes"] = None if size is None else min(2, len(steps)) * size
        lacking = [names for job in own for names in job.lacking.values()]
        told["seconds"] = _seconds(out, one.run, lacking)
        runs.append(told)
    return {"out": str(out), "measures": list(measures), "runs": runs}


def _bytes_of(series: Series, checkpoint: Checkpoint) -> int | None:
    from geomfast.series.checkpoint import SourceUnreachable

    try:
        return series.bytes_of(checkpoint)
    except SourceUnreachable:  # to say what is left needs no network
        return None


def _seconds(out: Path, run: str, lacking: Sequence[set[str]]) -> float | None:
    """Seconds that measures take, each as at the checkpoints so far; None where one has none."""
    from geomfast.measures.catalog import part_of
    from geomfast.records import load_records

    try:
        records = load_records(out / "records" / run)
    except FileNotFoundError:
        return None if lacking else 0.0
    groups = records.groupby(records["measure"].map(part_of))
    each = (groups["seconds"].sum() / groups["step"].nunique()).to_dict()
    needed = [name for names in lacking for name in names]
    return sum(each[name] for name in needed) if each.keys() >= set(needed) else None


def show_plan(plan: Mapping[str, Any], console: Console) -> None:
    """Print a plan."""

    say(console, f"{', '.join(('behaviour', *plan['measures']))} into {plan['out']}")
    for run in plan["runs"]:
        say(console, f"{run['run']}: {run['left']} of {run['checkpoints']} checkpoints left")
        if not run["left"]:
            continue
        steps = [str(step) for step in run["steps"]]
        shown = steps if len(steps) <= 8 else [*steps[:4], "...", *steps[-2:]]
        say(console, f"  steps {', '.join(shown)}")
        if run["download_bytes"] is None:
            say(console, "  download: of a size that the hub does not tell")
        elif run["download_bytes"]:
            size, disk = run["download_bytes"] / 2**30, run["disk_bytes"] / 2**30
            say(console, f"  download: about {size:.1f} GiB, {disk:.1f} GiB on disk at a time")
        if run["seconds"] is None:
            say(
                console,
                "  time: not known until a checkpoint has all of these measures; the command",
            )
            say(console, "  itself says what is left after each, and may be stopped and resumed")
        else:
            say(
                console,
                f"  time: about {run['seconds']:.0f} s of measuring by one process, as the "
                "checkpoints so far took; loading and downloads come on top",
            )
