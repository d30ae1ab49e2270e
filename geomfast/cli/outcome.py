"""Prints the outcome of a command, and the time that runs took by activity."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from geomfast.runs.outcome import exit_code
from geomfast.runs.timing import TRAINING, WRITING

#: Returns the text after a result's name and state; it begins with a comma or a space.
Told = Callable[[Mapping[str, Any]], str]


def program() -> str:
    """How this program was called, for hints that can be copied."""
    module = Path(sys.argv[0]).parts[-2:] == ("geomfast", "__main__.py")
    return "python -m geomfast" if module else "geomfast"


def say(console: Console, line: str) -> None:
    """Print a line as it is, however long."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def duration(seconds: float) -> str:
    """For instance ``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def finish(outcome: Mapping[str, Any], told: Told, console: Console, *, as_json: bool) -> None:
    """Print an outcome and leave with its exit code."""
    if as_json:
        click.echo(json.dumps(outcome))
    else:
        show_outcome(outcome, told, console)
    if code := exit_code(outcome):
        sys.exit(code)


def show_outcome(outcome: Mapping[str, Any], told: Told, console: Console) -> None:
    """Print a line or more for every result, failures and notices, and what to do next."""
    results = outcome["results"]
    for each in results:
        line = f"{each['name']}: {each['state']}{told(each)}"
        if "error" in each:
            line += f"\n{'' if each['explained'] else each['details']}{each['error']}"
        say(console, line)
    if not results:
        say(console, "Nothing to do: everything asked for is recorded already")
    timed = [each["seconds"] for each in results if "seconds" in each]
    if len(timed) > 1:
        names = dict.fromkeys(name for seconds in timed for name in seconds)
        total = {name: sum(seconds.get(name, 0.0) for seconds in timed) for name in names}
        say(console, f"these {len(timed)} runs: {shares(total)}")
    for name, why in outcome.get("failed_members", {}).items():
        say(console, f"{name}: left out, {why}")
    if any(each["state"] == "failed" for each in results):
        failures = Path(outcome["out"]) / "failures"
        say(console, f"Reasons of failures are in {failures}; run the same command again to retry")
    for notice, count in outcome["notices"].items():
        say(console, f"Notice: {notice} ({count} checkpoint{'s' * (count > 1)})")
    if outcome["state"] == "stopped":
        say(console, "Stopped: run the same command again to resume")
    if any((Path(outcome["out"]) / "records").glob("**/*.parquet")):
        how = " --population" if outcome.get("population") else ""
        say(console, f"Next: {program()} report {shlex.quote(outcome['out'])}{how}")


def shares(seconds: Mapping[str, float]) -> str:
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
