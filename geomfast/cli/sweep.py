"""``geomfast sweep``: train and measure a grid of runs."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from geomfast import __version__, machine
from geomfast.cli.choices import Levels, ListOf, Seeds
from geomfast.models.scales import SCALES
from geomfast.sweep.folder import check_folder, locked, prepare_folder
from geomfast.sweep.plan import (
    KEEP,
    MEASURE_SETTINGS,
    MEASURES,
    MIXTURES,
    PRECISIONS,
    PlanError,
    Settings,
    cells,
)
from geomfast.sweep.presets import PRESETS
from geomfast.tasks import LEVELS, TASK_NAMES

_GRID = ("scales", "seeds", "measures")
_LLC = MEASURE_SETTINGS["llc"]


@click.command(short_help="Train and measure a grid of runs; resumes where it was left.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--preset", default="smoke", show_default=True, help=f"{', '.join(PRESETS)}.")
@click.option("--tasks", type=ListOf("task", TASK_NAMES), help=f"{', '.join(TASK_NAMES)}; or all.")
@click.option("--levels", type=Levels(LEVELS), help="1, 2, 3; or all.")
@click.option("--scales", type=ListOf("scale", SCALES), help=f"{', '.join(SCALES)}; or all.")
@click.option("--seeds", type=Seeds(), help="Initialisation and data; ranges include both ends.")
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps of a run.")
@click.option("--checkpoints", type=click.IntRange(2), help="About how many to measure, in all.")
@click.option(
    "--measures",
    type=ListOf("measure", MEASURES),
    help=f"{', '.join(MEASURES)}; behaviour is always measured.",
)
@click.option(
    "--mixture",
    type=click.Choice(MIXTURES),
    help="One model for all task-levels (as in the paper), or one for each task.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Examples per step.")
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), help="Peak; each scale has its own."
)
@click.option("--samples", type=click.IntRange(2), help="Diagnostic samples per task-level.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), help="bf16: autocast, weights stay fp32."
)
@click.option(
    "--llc-lr",
    type=click.FloatRange(0, min_open=True),
    help=f"Step size of llc's chains.  [default: {Settings.llc_lr:g}; see calibrate-llc]",
)
@click.option(
    "--llc-localization",
    type=click.FloatRange(0),
    help=f"Their pull back to the weights.  [default: {Settings.llc_localization:g}]",
)
@click.option(
    "--llc-chains", type=click.IntRange(1), help=f"How many.  [default: {Settings.llc_chains}]"
)
@click.option(
    "--llc-draws", type=click.IntRange(4), help=f"Of each.  [default: {Settings.llc_draws}]"
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--engine", type=click.Choice(["local"]), default="local", show_default=True, help="Where."
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="At once.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads a run; default: all, shared.")
@click.option(
    "--keep",
    type=click.Choice(KEEP),
    default=KEEP[0],
    show_default=True,
    help="Keep the weights of the last checkpoints (enough to resume) or of all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON on stdout.")
def sweep(out: Path, preset: str, **options: Any) -> None:
    """Train models on the tasks and measure their geometry at every checkpoint.

    Running the same command again resumes; more scales, seeds or measures add work; other
    settings in the same OUT are refused. Ctrl-C finishes the write in hand.
    """
    if preset not in PRESETS:
        raise click.UsageError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    chosen = {
        key: options[key] if options.get(key) is not None else value
        for key, value in PRESETS[preset].items()
    }
    settings = Settings(
        mixture=chosen["mixture"],
        tasks=tuple(chosen["tasks"]),
        levels=tuple(chosen["levels"]),
        steps=chosen["steps"],
        batch_size=chosen["batch_size"],
        learning_rate=options["learning_rate"],
        precision=chosen["precision"],
        dense_until=chosen["dense_until"],
        dense_every=chosen["dense_every"],
        checkpoints=chosen["checkpoints"],
        samples=chosen["samples"],
        **{key: options[key] for key in _LLC if options[key] is not None},
    )
    console = Console(stderr=options["as_json"])
    try:
        check_folder(out)
        with locked(out, str(out)):
            grid = {key: list(chosen[key]) for key in _GRID}
            prepare_folder(out, settings, grid, _call(preset))
            outcome = _run(out, settings, chosen, options, console)
    except PlanError as error:
        raise click.UsageError(str(error)) from error
    if options["as_json"]:
        click.echo(json.dumps(outcome))
    else:
        _print_outcome(console, out, outcome)
    if any(run["state"] == "failed" for run in outcome["runs"]):
        sys.exit(1)
    if any(run["state"] == "stopped" for run in outcome["runs"]):
        sys.exit(130)


def _run(
    out: Path, settings: Settings, chosen: dict[str, Any], options: dict[str, Any], console: Console
) -> dict[str, Any]:
    # These bring torch with them, so they come after everything that can be refused early.
    from geomfast.cli.progress import display
    from geomfast.sweep import engines
    from geomfast.sweep.cell import Job, missing

    check_device(options["device"])
    workers = options["workers"]
    threads = options["threads"] or max(1, machine.usable_cores() // workers)
    jobs = [
        Job(cell, settings, chosen["measures"], out, options["device"], threads, options["keep"])
        for cell in cells(settings, chosen["scales"], chosen["seeds"])
    ]
    ended: dict[str, engines.Event] = {}
    todo = [job for job in jobs if missing(job)]
    stopping: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: stopping.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with display(console, settings.steps, len(todo)) as shown:
            for event in engines.local(todo, workers, lambda: bool(stopping)):
                shown.show(event)
                if event.kind in ("finished", "stopped", "failed"):
                    ended[event.run] = event
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return {"out": str(out), "runs": [_outcome(job, ended.get(job.cell.run), todo) for job in jobs]}


def _outcome(job: Any, event: Any, todo: list[Any]) -> dict[str, Any]:
    state = event.kind if event else ("stopped" if job in todo else "finished")
    result: dict[str, Any] = {"run": job.cell.run, "state": state}
    if event:
        result |= {"step": event.step, **event.state}
        if event.error:
            result |= {"error": event.error, "details": event.details}
    return result


def _print_outcome(console: Console, out: Path, outcome: dict[str, Any]) -> None:
    for run in outcome["runs"]:
        line = f"{run['run']}: {run['state']}"
        if "train_seconds" in run:
            seconds = {what: run[f"{what}_seconds"] for what in ("train", "measure", "write")}
            wall = sum(seconds.values())
            line += (
                f" after {wall:.0f} s: {seconds['train'] / wall:.1%} training, "
                f"{seconds['measure'] / wall:.1%} measuring, {seconds['write'] / wall:.1%} writing"
                f"; {run['real_fraction']:.1%} of the tokens processed were real"
            )
        if "error" in run:
            line += f"\n{run['details']}{run['error']}"
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(f"Next: geomfast report {out}", highlight=False, soft_wrap=True, markup=False)


def check_device(device: str) -> None:
    """Refuses a device that torch cannot use."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise click.UsageError(f"--device {device} cannot be used: {why}") from error


def _call(preset: str) -> dict[str, Any]:
    """What a reader of the folder wants to know of this call and no number depends on."""
    arguments = click.get_current_context().command_path
    return {
        "command": shlex.join([arguments.split()[0], *sys.argv[1:]]),
        "preset": preset,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "versions": {
            "geomfast": __version__,
            "python": platform.python_version(),
            "torch": metadata.version("torch"),
            "numpy": metadata.version("numpy"),
        },
    }
