"""What became of a sweep's runs, and where their time went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from geomfast.runs.wall import TRAINING, WRITING, wall_time

if TYPE_CHECKING:  # which bring torch with them
    from geomfast.runs.executors.events import Event
    from geomfast.sweep.jobs import Job


def outcome_of(
    out: Path, jobs: list[Job], todo: list[Job], ended: Mapping[str, Event]
) -> dict[str, Any]:
    """The outcome as plain values.

    Args:
        out: the sweep's folder.
        jobs: all of its runs.
        todo: those that had something left to do.
        ended: the last event of those that were started.
    """
    runs = [_run(job, ended.get(job.cell.run), job in todo) for job in jobs]
    return {"out": str(out), "runs": runs}


def _run(job: Job, event: Event | None, was_left: bool) -> dict[str, Any]:
    state = event.kind if event else ("stopped" if was_left else "finished")
    result: dict[str, Any] = {"run": job.cell.run, "state": state}
    if event is None:
        return result
    result |= {"step": event.step, **event.state}
    if job.records.is_dir() and any(job.records.glob("*.parquet")):
        table = wall_time(job.records)
        result["seconds"] = dict(zip(table["part"], table["seconds"], strict=True))
    if event.error:
        result |= {"error": event.error, "explained": event.explained}
        result |= {"details": event.details}
    return result


def show_outcome(outcome: Mapping[str, Any], console: Console) -> None:
    """Print a line or more for every run, and what to do next."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    for run in outcome["runs"]:
        line = f"{run['run']}: {run['state']}"
        if seconds := run.get("seconds"):
            line += f" after {_shares(seconds)}"
        if run.get("real_fraction"):  # none where everything had been trained before
            line += f"; {run['real_fraction']:.1%} of the tokens processed were real"
        if "error" in run:
            line += f"\n{'' if run['explained'] else run['details']}{run['error']}"
        say(line)
    timed = [run["seconds"] for run in outcome["runs"] if "seconds" in run]
    if len(timed) > 1:
        names = dict.fromkeys(name for seconds in timed for name in seconds)
        total = {name: sum(seconds.get(name, 0.0) for seconds in timed) for name in names}
        say(f"these {len(timed)} runs: {_shares(total)}")
    if any(run["state"] == "failed" for run in outcome["runs"]):
        say(f"Failed runs: why is in {Path(outcome['out']) / 'failures'}; run this again to retry")
    say(f"Next: geomfast report {outcome['out']}")


def _shares(seconds: Mapping[str, float]) -> str:
    """For instance ``196 s: 75.1% training, 24.0% measuring (rankme 1.3%), 0.9% writing``."""
    whole = sum(seconds.values())
    measures = {name: s for name, s in seconds.items() if name not in (TRAINING, WRITING)}
    each = sorted(measures.items(), key=lambda item: -item[1])
    parts = [f"{sum(measures.values()) / whole:.1%} measuring"]
    parts[0] += f" ({', '.join(f'{name} {s / whole:.1%}' for name, s in each)})"
    if TRAINING in seconds:
        parts.insert(0, f"{seconds[TRAINING] / whole:.1%} training")
        parts.append(f"{seconds[WRITING] / whole:.1%} writing")
    return f"{whole:.0f} s: {', '.join(parts)}"
