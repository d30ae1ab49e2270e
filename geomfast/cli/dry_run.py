"""``geomfast sweep --dry-run``: what is left to do, and what it takes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from geomfast.cli.engine import Engine, check_device
from geomfast.models.scales import SCALES
from geomfast.sweep.failures import failed_before
from geomfast.sweep.wall import TRAINING, WRITING

if TYPE_CHECKING:  # which bring torch with them
    from geomfast.sweep.cell import Job
    from geomfast.sweep.pace import Pace
    from geomfast.sweep.stacked_cells import StackedJob


def planned(out: Path, work: list[Job | StackedJob], engine: Engine) -> dict[str, Any]:
    """The plan as plain values; times a fraction of a second's work for each scale with work left.

    Args:
        out: the sweep's folder, which need not exist; nothing is written.
        work: all of it.
        engine: where it would be done.

    Raises:
        click.UsageError: this machine has no such device to time, if others have.
    """
    from geomfast.sweep.estimate import UNCERTAINTY
    from geomfast.sweep.pace import as_in_a_run, measure_pace
    from geomfast.sweep.stacked_cells import members_of

    check_device(engine.device)
    paces: dict[str, Pace] = {}
    runs = []
    for each in work:
        job = members_of(each)[0]

        def pace(job: Job = job) -> Pace:
            scale = job.cell.scale
            if scale not in paces:
                with as_in_a_run(engine.threads):
                    paces[scale] = measure_pace(
                        SCALES[scale], job.settings, job.cell.task_levels, engine.device
                    )
            return paces[scale]

        runs.append(_row(each, pace))
    # Runs that share a GPU share its time.
    gpu = engine.device.startswith("cuda")
    at_once = min(engine.workers or 1, len(engine.devices) if gpu else len(work))
    return {
        "out": str(out),
        "device": engine.device,
        "threads": engine.threads,
        "runs": runs,
        "total": _total(runs, at_once),
        "pace": {scale: asdict(pace) for scale, pace in paces.items()},
        "uncertainty": UNCERTAINTY,
        "failed_before": failed_before(out),
    }


def _row(work: Job | StackedJob, pace: Callable[[], Pace]) -> dict[str, Any]:
    """What is left of a run, or of several that are trained together."""
    from geomfast.sweep.cell import Job, wanted
    from geomfast.sweep.estimate import estimate, left, left_together, together

    members = (work,) if isinstance(work, Job) else work.members
    todo = [left(work)] if isinstance(work, Job) else left_together(work)
    seeds = [job.cell.seed for job in members]
    row: dict[str, Any] = {
        "run": work.name,
        "scale": members[0].cell.scale,
        "seed": seeds[0] if len(seeds) == 1 else seeds,
        "checkpoints_left": 0,
        "checkpoints": len(wanted(members[0])),
        "steps_left": 0,
        "seconds": {},
        "total_seconds": 0.0,
        "memory_bytes": 0,
        "disk_bytes": 0,
    }
    if not any(part.measures for part in todo):
        return row
    pairs = zip(members, todo, strict=True)
    found = [estimate(job, part, pace()) for job, part in pairs if part.measures]
    whole = found[0] if isinstance(work, Job) else together(work, found)
    return row | {
        "checkpoints_left": whole.checkpoints,
        "steps_left": whole.steps,
        "seconds": whole.seconds,
        "total_seconds": whole.total,
        "memory_bytes": whole.memory,
        "disk_bytes": whole.disk,
    }


def _total(runs: list[dict[str, Any]], at_once: int) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    for run in runs:
        for what, value in run["seconds"].items():
            seconds[what] = seconds.get(what, 0.0) + value
    largest = sorted((run["memory_bytes"] for run in runs), reverse=True)
    return {
        "runs_left": sum(run["checkpoints_left"] > 0 for run in runs),
        "seconds": seconds,
        "total_seconds": sum(seconds.values()),
        "at_once": at_once,
        "wall_seconds": _makespan([run["total_seconds"] for run in runs], at_once),
        "memory_bytes": sum(largest[:at_once]),
        "disk_bytes": sum(run["disk_bytes"] for run in runs),
    }


def _makespan(seconds: Iterable[float], at_once: int) -> float:
    """Until the last run is done, where the longest are started first."""
    busy = [0.0] * max(1, at_once)
    for each in sorted(seconds, reverse=True):
        heapq.heappush(busy, heapq.heappop(busy) + each)
    return max(busy)


def show_plan(plan: Mapping[str, Any], console: Console) -> None:
    """Print a plan as a table and what it comes to."""
    # One space between columns, so that 80 are enough.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, collapse_padding=True)
    table.add_column("run", no_wrap=True)
    for name in ("checkpoints", "steps", "train", "measure", "total", "memory", "disk"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in plan["runs"]:
        checkpoints = f"{run['checkpoints_left']} of {run['checkpoints']}"
        if not run["checkpoints_left"]:
            table.add_row(run["run"], "done")
            continue
        table.add_row(run["run"], checkpoints, str(run["steps_left"]), *_amounts(run))
    total = plan["total"]
    table.add_section()
    table.add_row("all that is left", "", "", *_amounts(total))
    console.print(table)
    lines = []
    if any(isinstance(run["seed"], list) for run in plan["runs"]):
        lines.append("Seeds trained as one program take less than this, which is one by one.")
    if total["total_seconds"]:
        shares = ", ".join(f"{what} {share:.0%}" for what, share in _shares(total["seconds"]))
        lines.append(f"Time: {shares}.")
        together = f"{total['at_once']} at once" if total["at_once"] > 1 else "one after the other"
        lines.append(
            f"On {plan['device']} with {plan['threads']} threads a run, {together}: about "
            f"{_time(total['wall_seconds'])}. Estimates: {plan['uncertainty']}."
        )
    lines += [f"Failed before: {run}: {why}" for run, why in plan["failed_before"].items()]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _amounts(row: Mapping[str, Any]) -> list[str]:
    seconds = row["seconds"]
    training, writing = seconds.get(TRAINING, 0.0), seconds.get(WRITING, 0.0)
    measuring = row["total_seconds"] - training - writing
    times = [_time(value) for value in (training, measuring, row["total_seconds"])]
    return [*times, _bytes(row["memory_bytes"]), _bytes(row["disk_bytes"])]


def _shares(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    """Largest first, without what is less than half a percent."""
    whole = sum(seconds.values())
    shares = [(what, value / whole) for what, value in seconds.items()]
    return sorted((s for s in shares if s[1] >= 0.005), key=lambda s: -s[1])


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(count: float) -> str:
    if count < 1 << 30:
        return f"{count / (1 << 20):.0f} MiB"
    return f"{count / (1 << 30):.1f} GiB"
