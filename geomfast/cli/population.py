"""``geomfast population``: hundreds of seeds of every scale on a task of length generalisation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from geomfast import machine
from geomfast.cli.choices import MOST_THREADS, Finite, Lengths, ListOf, Place, ScaleNames, Seeds
from geomfast.cli.engine import check_device
from geomfast.cli.interrupts import asked_to_stop
from geomfast.cli.locks import lock_option
from geomfast.cli.states import state_option
from geomfast.cli.sweep import described_call
from geomfast.measures import Need, measures, needing
from geomfast.population.folder import groups_of, settled
from geomfast.population.plan import (
    LADDER,
    MEASURES,
    TEST_LENGTHS,
    TRAIN_LENGTHS,
    PopulationSettings,
    check,
    run_name,
)
from geomfast.runs.errors import PlanError
from geomfast.runs.failures import clear_failure, failed_before, mark_failed
from geomfast.runs.folder import check_folder
from geomfast.runs.locks import locked
from geomfast.runs.settings_file import check_still_there, write_settings
from geomfast.testbed.tasks import LENGTH_TASKS
from geomfast.testbed.training.stacking import STACK

if TYPE_CHECKING:  # which brings torch with it
    from geomfast.population.running import GroupJob

_TASKS = "; ".join(f"{name}: {task.summary}" for name, task in LENGTH_TASKS.items())
_TRAIN = ", ".join(f"{task} {length}" for task, length in TRAIN_LENGTHS.items())
_TEST = ", ".join(f"{task} {','.join(map(str, of))}" for task, of in TEST_LENGTHS.items())


@click.command(
    short_help="Hundreds of seeds of every scale, trained as one; resumes where it was left."
)
@click.argument("out", type=Place(path_type=Path))
@click.option(
    "--task",
    type=click.Choice(list(LENGTH_TASKS)),
    default="count",
    show_default=True,
    help=f"{_TASKS}.",
)
@click.option(
    "--scales",
    type=ScaleNames(),
    default=",".join(LADDER),
    show_default=True,
    help="Layers and width of each.",
)
@click.option(
    "--seeds",
    type=Seeds(),
    default="0..49",
    show_default=True,
    help="Initialisation and data; ranges include both ends.",
)
@click.option("--steps", type=click.IntRange(2), default=2000, show_default=True)
@click.option(
    "--train-length", type=click.IntRange(1), help=f"Longest of training.  [default: {_TRAIN}]"
)
@click.option(
    "--test-lengths", type=Lengths(), help=f"Tested on besides that one.  [default: {_TEST}]"
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Examples per member and step, every length equally often.",
)
@click.option(
    "--learning-rate",
    type=Finite(0, min_open=True),
    help="Peak; each width has its own.",
)
@click.option(
    "--samples",
    type=click.IntRange(2),
    default=200,
    show_default=True,
    help="Diagnostic samples per length.",
)
@click.option(
    "--measures",
    type=ListOf("measure", needing(measures(), Need.ACTIVATIONS)),
    default=",".join(MEASURES),
    show_default=True,
    help="Of the members' activations; behaviour is always measured.",
)
@click.option(
    "--checkpoints",
    type=click.IntRange(2),
    default=16,
    show_default=True,
    help="About how many to measure, log-spaced.",
)
@click.option(
    "--stack",
    type=click.Choice(STACK),
    default=STACK[0],
    show_default=True,
    help="Members as one program, one after the other, or what is faster at their size.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), help="CPU threads.  [default: all]"
)
@state_option
@lock_option
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def population(out: Path, scales: tuple[str, ...], seeds: tuple[int, ...], **options: Any) -> None:
    """Train many seeds of every scale on short examples and test them on longer ones.

    Running the same command again resumes; more scales or seeds add work; other settings in the
    same OUT are refused. Ctrl-C or SIGTERM drops the measure in hand and saves the state; a second
    Ctrl-C ends at once.

    A member whose loss is not finite any more stays out of the records from there on, and leaves
    the others as they are; why is in OUT/failures. Exit codes: 0 done, 1 something failed, 2 bad
    usage, 130 stopped.
    """
    task = options["task"]
    settings = PopulationSettings(
        task=task,
        train_length=options["train_length"] or TRAIN_LENGTHS[task],
        test_lengths=options["test_lengths"] or TEST_LENGTHS[task],
        steps=options["steps"],
        batch_size=options["batch_size"],
        learning_rate=options["learning_rate"],
        samples=options["samples"],
        checkpoints=options["checkpoints"],
        measures=options["measures"],
    )
    console = Console(stderr=options["as_json"])
    try:
        check(settings)
        check_folder(out)
        check_device(options["device"])
        with locked(out, str(out)):
            jobs = _jobs(out, settings, scales, seeds, options)
            outcome = _run(out, jobs, settings, console)
            check_still_there(out)
    except PlanError as error:
        raise click.UsageError(str(error)) from error
    if options["as_json"]:
        click.echo(json.dumps(outcome))
    else:
        _show(outcome, console)
    states = {group["state"] for group in outcome["groups"]}
    if "failed" in states or outcome["failed_members"]:
        sys.exit(1)
    if "stopped" in states:
        sys.exit(130)


def _jobs(
    out: Path,
    settings: PopulationSettings,
    scales: tuple[str, ...],
    seeds: tuple[int, ...],
    options: dict[str, Any],
) -> list[GroupJob]:
    # These bring torch with them, so they come after everything that can be refused early.
    from geomfast.population.running import GroupJob, batches_of

    threads = options["threads"] or machine.usable_cores()
    content = settled(
        out,
        settings,
        scales,
        seeds,
        stack=options["stack"],
        device=options["device"],
        tokens=batches_of(settings, "cpu").processed,
    )
    write_settings(out, content, described_call())
    groups = groups_of(content, scales, seeds)
    where = (settings, out, options["device"], threads)
    return [GroupJob(group, *where, options["state_every"]) for group in groups]


def _run(
    out: Path, jobs: list[GroupJob], settings: PopulationSettings, console: Console
) -> dict[str, Any]:
    from geomfast.cli.progress import display
    from geomfast.population.running import missing
    from geomfast.runs.executors.events import Event, attempt

    todo = [job for job in jobs if missing(job)]
    ended: dict[str, Event] = {}
    with asked_to_stop() as stopping, display(console, settings.steps, len(todo)) as shown:
        for job in todo:
            if stopping():
                break
            shown.show(Event(job.group.name, "started"))
            event = attempt(job, shown.show, stopping, patience=0.0)
            shown.show(event)
            ended[job.group.name] = event
            if event.kind == "failed":
                mark_failed(out, event.run, event.step, event.error, event.details)
    groups = []
    for job in jobs:
        event = ended.get(job.group.name)
        state = event.kind if event else ("stopped" if job in todo else "finished")
        if state == "finished":
            clear_failure(out, job.group.name)
        group = job.group
        told = {"group": group.name, "scale": group.scale, "members": len(group.seeds)}
        told |= {"at_once": group.at_once, "state": state}
        if event:
            told |= {"step": event.step, **event.state}
            if event.error:
                told |= {"error": event.error, "explained": event.explained}
                told |= {"details": event.details}
        groups.append(told)
    members = {run_name(settings, job.group.scale, s) for job in jobs for s in job.group.seeds}
    failed = {run: why for run, why in failed_before(out).items() if run in members}
    return {"out": str(out), "groups": groups, "failed_members": failed}


def _show(outcome: dict[str, Any], console: Console) -> None:
    """Print a line or more for every group, members that failed, and what to do next."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    for group in outcome["groups"]:
        together = f"{group['at_once']} at once" if group["at_once"] > 1 else "one after the other"
        line = f"{group['group']}: {group['state']}, {group['members']} members, {together}"
        if "train_seconds" in group:
            line += f", {group['train_seconds']:.0f} s training, "
            line += f"{group['measure_seconds']:.0f} s measuring"
        if "error" in group:
            line += f"\n{'' if group['explained'] else group['details']}{group['error']}"
        say(line)
    for run, why in outcome["failed_members"].items():
        say(f"{run}: left out, {why}")
    say(f"Next: geomfast report {outcome['out']}")
