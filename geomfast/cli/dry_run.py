"""Output of ``--dry-run`` for commands that train: the work that is left, and its cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from geomfast.cli.modelled import show_modelled
from geomfast.cli.outcome import duration, say
from geomfast.runs.timing import STARTING, TRAINING, WRITING

_NO_MEASURE = (STARTING, TRAINING, WRITING)


def check_assumed(options: Mapping[str, Any]) -> None:
    """Refuse an assumed GPU unless it is only modelled.

    Args:
        options: of ``geomfast sweep``.

    Raises:
        click.UsageError: names the options that ``--assume`` needs.
    """
    name = options["assume"]
    if not options["dry_run"]:
        raise click.UsageError(f"--assume {name} needs --dry-run: nothing runs on what is assumed")
    if options["device"] != "cuda" or options["engine"] != "local":
        raise click.UsageError(f"--assume {name} is one GPU: it needs --device cuda, without Ray")


def show_plan(plan: Mapping[str, Any], console: Console) -> None:
    """Print a plan as a table, with its total."""
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
    lines = list(plan.get("remarks", ()))
    if total["total_seconds"]:
        shares = ", ".join(f"{what} {share:.0%}" for what, share in _shares(total["seconds"]))
        lines.append(f"Time: {shares}.")
        together = f"{total['at_once']} at once" if total["at_once"] > 1 else "one after the other"
        where = f"{plan['device']} with {plan['threads']} threads a run"
        if "assumed" in plan:
            where = f"one {plan['assumed']['title']}"
            alone = duration(total["total_seconds"])
            lines.append(
                f"One after the other {alone}, of which the GPU is busy for "
                f"{duration(total['device_seconds'])}."
            )
        lines.append(
            f"On {where}, {together}: about "
            f"{duration(total['wall_seconds'])}. Estimates: {plan['uncertainty']}."
        )
    lines += [f"Failed before: {run}: {why}" for run, why in plan["failed_before"].items()]
    for line in lines:
        say(console, line)


def _amounts(row: Mapping[str, Any]) -> list[str]:
    seconds = row["seconds"]
    training = seconds.get(TRAINING, 0.0)
    measuring = sum(seconds.values()) - sum(seconds.get(name, 0.0) for name in _NO_MEASURE)
    times = [duration(value) for value in (training, measuring, row["total_seconds"])]
    return [*times, _bytes(row["memory_bytes"]), _bytes(row["disk_bytes"])]


def _shares(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    """Largest first, without what is less than half a percent."""
    whole = sum(seconds.values())
    shares = [(what, value / whole) for what, value in seconds.items()]
    return sorted((s for s in shares if s[1] >= 0.005), key=lambda s: -s[1])


def _bytes(count: float) -> str:
    if count < 1 << 30:
        return f"{count / (1 << 20):.0f} MiB"
    return f"{count / (1 << 30):.1f} GiB"


def print_plan(
    plan: Mapping[str, Any],
    console: Console,
    *,
    as_json: bool,
    show: Callable[[Mapping[str, Any], Console], None] = show_plan,
) -> None:
    """Print a plan: for a program, or as ``show`` does for a reader."""
    if as_json:
        click.echo(json.dumps(plan))
    else:
        show(plan, console)
