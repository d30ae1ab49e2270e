"""What a dry run of ``geomfast measure`` finds, and how it is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from geomfast.cli.outcome import say

if TYPE_CHECKING:  # which bring torch with them
    from geomfast.series.checkpoint import Checkpoint, Series
    from geomfast.series.running import MeasureJob


def planned(
    out: Path, series: Sequence[Series], jobs: Sequence[MeasureJob], measures: tuple[str, ...]
) -> dict[str, Any]:
    """The work that is left, as plain values; nothing is measured.

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
