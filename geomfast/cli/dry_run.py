"""``geomfast sweep --dry-run``: what is left to do, and what it takes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from geomfast.cli.engine import Engine, check_device
from geomfast.cli.modelled import show_modelled
from geomfast.runs.failures import failed_before
from geomfast.runs.wall import STARTING, TRAINING, WRITING
from geomfast.testbed.models.scales import SCALES

_NO_MEASURE = (STARTING, TRAINING, WRITING)

if TYPE_CHECKING:  # which bring torch with them
    from geomfast.sweep.assumed import Assumed
    from geomfast.sweep.jobs import Job, StackedJob
    from geomfast.sweep.pace import Pace


def check_assumed(options: Mapping[str, Any]) -> None:
    """Refuse to assume a GPU where something is to be done on one.

    Args:
        options: of ``geomfast sweep``.

    Raises:
        click.UsageError: says what it goes together with.
    """
    name = options["assume"]
    if not options["dry_run"]:
        raise click.UsageError(f"--assume {name} needs --dry-run: nothing runs on what is assumed")
    if options["device"] != "cuda" or options["engine"] != "local":
        raise click.UsageError(f"--assume {name} is one GPU: it needs --device cuda, without Ray")


def planned(
    out: Path, work: list[Job | StackedJob], engine: Engine, assumed: Assumed | None = None
) -> dict[str, Any]:
    """The plan as plain values; times a fraction of a second's work for each scale with work left.

    Args:
        out: the sweep's folder, which need not exist; nothing is written.
        work: all of it.
        engine: where it would be done.
        assumed: the GPU whose times are modelled instead of this machine's measured.

    Raises:
        click.UsageError: this machine has no such device to time, if others have.
    """
    from geomfast.sweep.estimate import MODELLED, UNCERTAINTY
    from geomfast.sweep.pace import as_in_a_run, measure_pace

    if assumed is None:
        check_device(engine.device)
    paces: dict[str, Pace] = {}
    runs = []
    for each in work:
        job = each.members[0]

        def pace(job: Job = job) -> Pace | Assumed:
            if assumed is not None:
                return assumed
            scale = job.cell.scale
            if scale not in paces:
                with as_in_a_run(engine.threads):
                    paces[scale] = measure_pace(
                        SCALES[scale], job.settings, job.cell.task_levels, engine.device
                    )
            return paces[scale]

        runs.append(_row(each, pace))
    gpus = len(engine.devices) if engine.device.startswith("cuda") else 0
    at_once = max(1, min(engine.workers or 1, len(work)))
    plan = {
        "out": str(out),
        "device": engine.device,
        "threads": engine.threads,
        "runs": runs,
        "total": _total(runs, at_once, gpus, modelled=assumed is not None),
        "pace": {scale: asdict(pace) for scale, pace in paces.items()},
        "uncertainty": MODELLED if assumed else UNCERTAINTY,
        "failed_before": failed_before(out),
    }
    if assumed:
        figures = {name: asdict(figure) for name, figure in assumed.figures().items()}
        plan["assumed"] = {"name": assumed.name, "title": assumed.title, "figures": figures}
    return plan


def _row(work: Job | StackedJob, pace: Callable[[], Pace | Assumed]) -> dict[str, Any]:
    """What is left of a run, or of several that are trained together."""
    from geomfast.sweep.estimate import estimate, left, left_together, together
    from geomfast.sweep.jobs import Job, wanted

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
        "parts": {name: asdict(part) for name, part in whole.parts.items()},
    }


def _total(
    runs: list[dict[str, Any]], at_once: int, gpus: int, *, modelled: bool
) -> dict[str, Any]:
    """Of all runs.

    Args:
        runs: see :func:`_row`.
        at_once: of them.
        gpus: that they share; 0 without any.
        modelled: whether it is known how long each keeps a GPU busy.
    """
    seconds: dict[str, float] = {}
    for run in runs:
        for what, value in run["seconds"].items():
            seconds[what] = seconds.get(what, 0.0) + value
    alone = [run["total_seconds"] for run in runs]
    busy = sum(part["device"] for run in runs for part in run.get("parts", {}).values())
    # Runs that share a GPU share its time; how much of it each leaves to others is not measured.
    wall = _makespan(alone, min(at_once, gpus) if gpus and not modelled else at_once)
    largest = sorted((run["memory_bytes"] for run in runs), reverse=True)
    return {
        "runs_left": sum(run["checkpoints_left"] > 0 for run in runs),
        "seconds": seconds,
        "total_seconds": sum(seconds.values()),
        "at_once": at_once,
        "wall_seconds": max(wall, busy / max(1, gpus)),
        "device_seconds": busy,
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
    if "assumed" in plan:
        show_modelled(plan, console)
    lines = []
    if any(isinstance(run["seed"], list) for run in plan["runs"]):
        lines.append("Seeds trained as one program take less than this, which is one by one.")
    if total["total_seconds"]:
        shares = ", ".join(f"{what} {share:.0%}" for what, share in _shares(total["seconds"]))
        lines.append(f"Time: {shares}.")
        together = f"{total['at_once']} at once" if total["at_once"] > 1 else "one after the other"
        where = f"{plan['device']} with {plan['threads']} threads a run"
        if "assumed" in plan:
            where = f"one {plan['assumed']['title']}"
            alone = _time(total["total_seconds"])
            lines.append(
                f"One after the other {alone}, of which the GPU is busy for "
                f"{_time(total['device_seconds'])}."
            )
        lines.append(
            f"On {where}, {together}: about "
            f"{_time(total['wall_seconds'])}. Estimates: {plan['uncertainty']}."
        )
    lines += [f"Failed before: {run}: {why}" for run, why in plan["failed_before"].items()]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _amounts(row: Mapping[str, Any]) -> list[str]:
    seconds = row["seconds"]
    training = seconds.get(TRAINING, 0.0)
    measuring = sum(seconds.values()) - sum(seconds.get(name, 0.0) for name in _NO_MEASURE)
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
