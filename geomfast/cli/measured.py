"""What ``geomfast measure`` shows: its progress, its outcome, and what a dry run finds."""

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
        self._say(f"Records go to {out}")
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
            self._say(f"{event.run}: {event.error}")
        ended = event.state.get("measured", 0.0) + event.state.get("failed", 0.0)
        if event.kind != "progress" or ended <= self._done.get(event.run, 0.0):
            return
        self._done[event.run] = ended
        count = round(sum(self._done.values()))
        self._progress.update(self._bar, completed=count, description=f"step {event.step}")
        if not self._console.is_terminal:
            pace = (time.monotonic() - self._began) / count
            left = f", {pace * (self._total - count):.0f} s left" if count < self._total else ""
            self._say(f"{event.run}: step {event.step}, {count} of {self._total} checkpoints{left}")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def outcome_of(
    out: Path, series: Sequence[Series], jobs: Sequence[MeasureJob], ended: Mapping[str, Event]
) -> dict[str, Any]:
    """The outcome as plain values.

    Args:
        out: folder of the results.
        series: all that were asked for.
        jobs: what was left of them.
        ended: the last event of each job that was started.
    """
    told = []
    for job in jobs:
        event = ended.get(job.name)
        line: dict[str, Any] = {"job": job.name, "checkpoints": len(job.steps), "state": "stopped"}
        if event is not None:
            line |= {"state": event.kind, **event.state}
            if event.error:
                error = event.error.removeprefix("SomeFailed: ").removeprefix("SourceUnreachable: ")
                line |= {"error": error, "explained": event.explained, "details": event.details}
        told.append(line)
    runs = {one.run: len(one.checkpoints) for one in series}
    return {"out": str(out), "runs": runs, "jobs": told, "notices": notices(out)}


def notices(out: Path) -> dict[str, int]:
    """Notices in OUT, each with the number of checkpoints that have it."""
    found: dict[str, int] = {}
    for path in sorted((out / "notices").glob("*.txt")):
        for line in path.read_text().splitlines():
            found[line] = found.get(line, 0) + 1
    return found


def show_outcome(outcome: Mapping[str, Any], console: Console) -> None:
    """Print what became of the checkpoints, the notices, and what to do next."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    for job in outcome["jobs"]:
        line = f"{job['job']}: {job['state']}"
        if "measured" in job:
            line += (
                f", {job['measured']:.0f} checkpoints measured in {job['measure_seconds']:.0f} s"
            )
            line += f" and {job['wait_seconds']:.0f} s waited for files"
        say(line)
        if "error" in job:
            say(job["error"] if job["explained"] else job["details"] + job["error"])
    if not outcome["jobs"]:
        say("everything asked for is measured already")
    for notice, count in outcome["notices"].items():
        say(f"Notice: {notice} ({count} checkpoint{'s' * (count > 1)})")
    if any(job["state"] == "failed" for job in outcome["jobs"]):
        failures = Path(outcome["out"]) / "failures"
        say(f"Failed checkpoints: why is in {failures}; run this again to retry")
    say(f"Next: geomfast report {outcome['out']}")


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
        steps = sorted(step for job in jobs if job.series.run == one.run for step in job.steps)
        told: dict[str, Any] = {"run": one.run, "checkpoints": len(one.checkpoints)}
        told |= {"left": len(steps), "steps": steps}
        first = next((c for c in one.checkpoints if c.step in steps), None)
        size = _bytes_of(one, first) if first else 0
        # Checkpoints of one model are of one size.
        told["download_bytes"] = None if size is None else size * len(steps)
        told["disk_bytes"] = None if size is None else min(2, len(steps)) * size
        each = seconds_each(out, one.run, measures)
        told["seconds"] = None if each is None else each * len(steps)
        runs.append(told)
    return {"out": str(out), "measures": list(measures), "runs": runs}


def _bytes_of(series: Series, checkpoint: Checkpoint) -> int | None:
    from geomfast.series.checkpoint import SourceUnreachable

    try:
        return series.bytes_of(checkpoint)
    except SourceUnreachable:  # to say what is left needs no network
        return None


def seconds_each(out: Path, run: str, measures: tuple[str, ...]) -> float | None:
    """Seconds that the measures of a checkpoint take, by those measured; None where none is."""
    from geomfast.measures.catalog import part_of
    from geomfast.measures.spec import BEHAVIOUR
    from geomfast.records import load_records

    try:
        records = load_records(out / "records" / run)
    except FileNotFoundError:
        return None
    of = records["measure"].map(part_of)
    seconds = 0.0
    for name in (BEHAVIOUR, *measures):
        rows = records[of == name]
        if rows.empty:
            return None
        seconds += float(rows["seconds"].sum()) / rows["step"].nunique()
    return seconds


def show_plan(plan: Mapping[str, Any], console: Console) -> None:
    """Print a plan."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    say(f"{', '.join(('behaviour', *plan['measures']))} into {plan['out']}")
    for run in plan["runs"]:
        say(f"{run['run']}: {run['left']} of {run['checkpoints']} checkpoints left")
        if not run["left"]:
            continue
        steps = [str(step) for step in run["steps"]]
        shown = steps if len(steps) <= 8 else [*steps[:4], "...", *steps[-2:]]
        say(f"  steps {', '.join(shown)}")
        if run["download_bytes"] is None:
            say("  download: of a size that the hub does not tell")
        elif run["download_bytes"]:
            size, disk = run["download_bytes"] / 2**30, run["disk_bytes"] / 2**30
            say(f"  download: about {size:.1f} GiB, {disk:.1f} GiB on disk at a time")
        if run["seconds"] is None:
            say("  time: not known until a checkpoint has all of these measures; the command")
            say("  itself says what is left after each, and may be stopped and gone on with")
        else:
            say(
                f"  time: about {run['seconds']:.0f} s of measuring by one process, as the "
                "checkpoints so far took; loading and downloads come on top"
            )
