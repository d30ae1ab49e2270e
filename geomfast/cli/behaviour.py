"""``geomfast behaviour``: what language models could do, from results of the evaluation harness."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from geomfast.cli.choices import Place
from geomfast.cli.options import json_option, lock_option
from geomfast.cli.outcome import program, say
from geomfast.cli.working import described_call, refusals
from geomfast.files import refuse_links
from geomfast.harness import tasks
from geomfast.harness.collected import Collected, collect
from geomfast.harness.folder import NAME, geometry_runs, read_behaviour, write
from geomfast.harness.names import Naming
from geomfast.harness.sources import sources
from geomfast.runs.errors import PlanError
from geomfast.runs.locks import locked

#: How many reasons of one kind are printed; all are in behaviour.json.
PRINTED = 5


def _pairs(convert: Callable[[str], Any]) -> Callable[..., dict[str, Any]]:
    """A callback that reads NAME=VALUE, given any number of times."""

    def read(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for value in values:
            name, equals, text = value.rpartition("=")
            if not equals or not name:
                raise click.BadParameter(f"{value!r} is not {param.metavar}", ctx, param)
            try:
                found[name] = convert(text)
            except ValueError as error:
                raise click.BadParameter(f"{value!r}: {error}", ctx, param) from error
        return found

    return read


def _rate(text: str) -> float:
    number = float(text)
    if not 0.0 <= number < 1.0 or math.isnan(number):
        raise ValueError("a rate of blind guesses is at least 0 and below 1")
    return number


def _kind(text: str) -> str:
    if text not in tasks.KINDS:
        raise ValueError(f"kinds are {', '.join(tasks.KINDS)}")
    return text


@click.command()
@click.argument("out", type=Place(path_type=Path, file_okay=False))
@click.argument("results", type=Place("file", path_type=Path), nargs=-1, required=True)
@click.option(
    "--names",
    metavar="PATTERN",
    help="How the name of a model tells its scale, and perhaps its seed: pythia-v1.1-{scale}, "
    "my-{scale}-seed{seed}.  [default: the name is the scale]",
)
@click.option(
    "--files",
    metavar="PATTERN",
    help="How the path of a file ends where its model and revision do not tell scale, seed or "
    "step: {scale}_step{step}.json.",
)
@click.option(
    "--runs",
    metavar="PATTERN",
    help="Names of the runs, by which results join geometry: pythia-{scale}.  [default: the name "
    "of the model]",
)
@click.option(
    "--chance",
    metavar="TASK=RATE",
    multiple=True,
    callback=_pairs(_rate),
    help="Rate of blind guesses of a task, or of all that fit a pattern with *; may be repeated.  "
    "[default: of the number of choices, or as known of the task]",
)
@click.option(
    "--kind",
    metavar="TASK=KIND",
    multiple=True,
    callback=_pairs(_kind),
    help=f"Kind of a task, or of all that fit a pattern with *: {', '.join(tasks.KINDS)}; may be "
    "repeated.  [default: as known of the task]",
)
@click.option(
    "--shots",
    type=click.IntRange(0),
    help="Examples in a prompt; results with another number are left out.  [default: any]",
)
@lock_option
@json_option()
def behaviour(
    out: Path,
    results: tuple[Path, ...],
    names: str | None,
    files: str | None,
    runs: str | None,
    chance: dict[str, float],
    kind: dict[str, str],
    shots: int | None,
    as_json: bool,
) -> None:
    """Read results of the lm-evaluation-harness into OUT, as behaviour over training.

    RESULTS are files, folders and archives (tar, zip) of what lm_eval --output_path writes, in its
    old and its present format. Step and model are read from model_args (pretrained=...,
    revision=step1000). Sample files (--log_samples) beside them tell the number of choices and the
    probability of the right one.

    OUT is a new folder, or that of geomfast measure or of a tracker: results then join the geometry
    by run and step, and geomfast report OUT tells what came first.

    What is no result, or of another model, is listed and left out. A task of a checkpoint that is
    there twice is refused, and so are values that contradict those in OUT. The same command with
    more files adds them.

    \b
    geomfast behaviour out/pythia results/ --names "pythia-{scale}"
    geomfast report out/pythia

    Exit codes: 0 done, 2 bad usage, or nothing that can be read.
    """
    console = Console(stderr=as_json)
    with refusals():
        naming = Naming(names, files, runs)
        _check_folder(out)
        try:
            with Console(stderr=True).status("reading ..."):
                geometry = geometry_runs(out)
                found = collect(
                    sources(results), naming, shots=shots, runs=set(geometry) if geometry else None
                )
            if not found.checkpoints:
                raise PlanError(_nothing(found))
            with locked(out, str(out)):
                told = write(out, found, described_call(), chances=chance, kinds=kind)
        except OSError as error:
            raise PlanError(f"{error.filename or out}: {error.strerror or error}") from error
    summary = _summary(out, found, told, joined=bool(geometry))
    if as_json:
        click.echo(json.dumps(summary))
    else:
        _show(summary, console)


def _check_folder(out: Path) -> None:
    """OUT is new or empty, or holds behaviour, or records that it can join.

    Raises:
        PlanError: it is something else.
    """
    read_behaviour(out)
    there = [p for p in out.iterdir() if not p.name.startswith(".")] if out.is_dir() else []
    if there and not (out / NAME).exists() and not (out / "records").is_dir():
        raise PlanError(f"{out} is not empty, and has neither {NAME} nor records")
    refuse_links(out)


def _nothing(found: Collected) -> str:
    every = [*found.left_out.items(), *found.tasks_left_out.items()]
    reasons = [f"\n  {name}: {why}" for name, why in every[:PRINTED]]
    more = len(every) - len(reasons)
    return "no results in these files" + "".join(reasons) + f"\n  and {more} more" * (more > 0)


def _summary(
    out: Path, found: Collected, told: Mapping[str, Any], *, joined: bool
) -> dict[str, Any]:
    """What was done, as plain values."""
    described = told["content"]["tasks"]
    here = {task: described[task] for task in found.tasks}
    runs: dict[str, list[int]] = {}
    for one in found.checkpoints:
        runs.setdefault(one.run, []).append(one.step)
    no_error = sorted(
        {
            task
            for task in found.tasks
            for entry in found.of(task)
            for score in entry.result.scores
            if score.measure == "accuracy" and math.isnan(score.stderr) and not here[task]["n"]
        }
    )
    with_accuracy = {
        task
        for task in here
        for entry in found.of(task)
        for score in entry.result.scores
        if score.measure == "accuracy"
    }
    every = set(here)
    missing = {
        f"{one.run}, step {one.step}": sorted(every - set(results))
        for one, results in found.checkpoints.items()
        if every - set(results)
    }
    return {
        "out": str(out),
        "files": found.files,
        "joined": joined,
        "runs": {
            run: {"checkpoints": len(steps), "last": max(steps)} for run, steps in runs.items()
        },
        "tasks": len(here),
        "written": told["values"],
        "known": told["known"],
        "groups": sorted(found.groups),
        "left_out": found.left_out,
        "tasks_left_out": found.tasks_left_out,
        "without_accuracy": sorted(every - with_accuracy),
        "chance_unknown": [task for task in here if here[task]["chance"] is None],
        "error_unknown": no_error,
        "missing": missing,
    }


def _show(summary: Mapping[str, Any], console: Console) -> None:
    runs = summary["runs"]
    for run, told in runs.items():
        count = told["checkpoints"]
        say(
            console,
            f"{run}: {count} checkpoint{'s' * (count > 1)}, the last of step {told['last']:,}",
        )
    line = (
        f"{summary['files']} files, {summary['tasks']} tasks: {summary['written']:,} values written"
    )
    say(console, line + (f", {summary['known']:,} there already" if summary["known"] else ""))
    if summary["groups"]:
        say(console, f"Left out, as they are means of tasks: {', '.join(summary['groups'])}")
    _reasons(summary["tasks_left_out"] | summary["left_out"], console)
    if summary["missing"]:
        absent = {tasks for names in summary["missing"].values() for tasks in names}
        count = len(summary["missing"])
        say(
            console,
            f"Notice: {count} checkpoint{'s lack' if count > 1 else ' lacks'} tasks that others "
            f"have ({len(absent)} of them)",
        )
    if lacking := summary["without_accuracy"]:
        say(console, f"Notice: no accuracy of {_some(lacking)}, only other values")
    if unknown := summary["chance_unknown"]:
        say(
            console,
            f"Notice: the rate of blind guesses is not known of {_some(unknown)}; give it with "
            "--chance, without it nothing is above chance",
        )
    if unknown := summary["error_unknown"]:
        say(
            console,
            f"Notice: neither standard error nor number of samples of {_some(unknown)}: a rise "
            "cannot be told from noise",
        )
    say(console, f"Next: {program()} report {shlex.quote(summary['out'])}")


def _reasons(left_out: Mapping[str, str], console: Console) -> None:
    """Files and tasks that are left out, those of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for name, why in left_out.items():
        by_reason.setdefault(why, []).append(name)
    shown = list(by_reason.items())
    for why, names in shown[:PRINTED]:
        say(console, f"Left out, {why}: {_some(names)}")
    if len(shown) > PRINTED:
        say(console, f"Left out for {len(shown) - PRINTED} other reasons: see {NAME}")


def _some(names: Sequence[str]) -> str:
    told = ", ".join(names[:PRINTED])
    return told + (f" and {len(names) - PRINTED} more" if len(names) > PRINTED else "")
