"""``geomfast population``: hundreds of seeds of every scale on a task of length generalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from geomfast.cli.choices import Finite, ListOf, Numbers, Place, ScaleNames, Seeds
from geomfast.cli.dry_run import print_plan
from geomfast.cli.engine import check_device, chosen_engine
from geomfast.cli.options import (
    asked_cadence,
    cadence_option,
    dry_run_option,
    engine_options,
    json_option,
    lock_option,
    stack_option,
    state_option,
)
from geomfast.cli.outcome import finish
from geomfast.cli.working import described_call, refusals, run_work
from geomfast.measures import Need, measures, needing
from geomfast.population.folder import groups_of, merge_settings
from geomfast.population.plan import (
    LADDER,
    MEASURES,
    TEST_LENGTHS,
    TRAIN_LENGTHS,
    PopulationSettings,
    check,
    run_name,
)
from geomfast.runs.executors.engine import Engine
from geomfast.runs.folder import check_folder
from geomfast.runs.locks import locked
from geomfast.runs.outcome import outcome_of, result
from geomfast.runs.settings_file import check_still_there, write_settings
from geomfast.testbed.tasks import LENGTH_TASKS

if TYPE_CHECKING:  # which bring torch with them
    from geomfast.population.running import GroupJob
    from geomfast.runs.executors.events import Event

_MEASURES = needing(measures(), Need.ACTIVATIONS)
_TASKS = "; ".join(f"{name}: {task.summary}" for name, task in LENGTH_TASKS.items())
_TRAIN = ", ".join(f"{task} {length}" for task, length in TRAIN_LENGTHS.items())
_TEST = ", ".join(f"{task} {','.join(map(str, of))}" for task, of in TEST_LENGTHS.items())


@click.command()
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
    help="Scales, each by its number of layers and its width.",
)
@click.option(
    "--seeds",
    type=Seeds(),
    default="0..49",
    show_default=True,
    help="Seeds of initialisation and data; ranges include both ends.",
)
@click.option(
    "--steps",
    type=click.IntRange(2),
    default=2000,
    show_default=True,
    help="Optimiser steps of each member.",
)
@click.option(
    "--train-length",
    type=click.IntRange(1),
    help=f"Longest examples to train on.  [default: {_TRAIN}]",
)
@click.option(
    "--test-lengths",
    type=Numbers("length", "16,24", int),
    help=f"Lengths of examples to test on, besides the longest trained on.  [default: {_TEST}]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Examples per member and step; every length is equally frequent.",
)
@click.option(
    "--learning-rate",
    type=Finite(0, min_open=True),
    help="Peak learning rate.  [default: each width has its own]",
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
    type=ListOf("measure", _MEASURES),
    default=",".join(MEASURES),
    show_default=True,
    help=f"Measures of activations: {', '.join(_MEASURES)}; behaviour is always measured.",
)
@cadence_option(_MEASURES, "all")
@click.option(
    "--checkpoints",
    type=click.IntRange(2),
    default=16,
    show_default=True,
    help="Approximate number of checkpoints to measure, at logarithmic distances.",
)
@stack_option("members")
@engine_options
@state_option
@lock_option
@dry_run_option
@json_option()
def population(out: Path, scales: tuple[str, ...], seeds: tuple[int, ...], **options: Any) -> None:
    """Train many seeds of every scale on short examples and test them on longer ones.

    Running the same command again resumes; more scales, seeds, measures, or checkpoints of a
    measure add work; other settings in the same OUT are refused. Ctrl-C or SIGTERM stops the
    measurement in hand and saves the state; a second Ctrl-C aborts at once.

    A member whose loss becomes infinite or NaN is not recorded from then on; the others continue,
    and the reason is in OUT/failures. Exit codes: 0 done, 1 something failed, 2 bad usage, 130
    stopped.

    Members of a scale are trained in groups that stay together, each group by one worker.
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
    cadence = asked_cadence(options["cadence"], settings.measures)
    console = Console(stderr=options["as_json"])
    with refusals():
        check(settings)
        check_folder(out, make=not options["dry_run"])
        engine = chosen_engine(options)
        with nullcontext() if options["dry_run"] else locked(out, str(out)):
            content, jobs = _jobs(out, settings, scales, seeds, cadence, options, engine)
            if options["dry_run"]:
                plan = _planned(out, jobs, engine, console)
                print_plan(plan, console, as_json=options["as_json"])
                return
            write_settings(out, content, described_call())
            outcome = _run(out, jobs, settings, engine, console, content["calls"])
            check_still_there(out)
    finish(outcome, _told, console, as_json=options["as_json"])


def _jobs(
    out: Path,
    settings: PopulationSettings,
    scales: tuple[str, ...],
    seeds: tuple[int, ...],
    cadence: dict[str, int],
    options: dict[str, Any],
    engine: Engine,
) -> tuple[dict[str, Any], list[GroupJob]]:
    """The new content of the folder's settings, and the jobs of the requested groups."""
    # These bring torch with them, so they come after everything that can be refused early.
    from geomfast.population.running import GroupJob, batches_of

    content = merge_settings(
        out,
        settings,
        scales,
        seeds,
        stack=options["stack"],
        device=engine.device,
        tokens=batches_of(settings, "cpu").processed,
        cadence=cadence,
    )
    groups = groups_of(content, scales, seeds)
    what = (settings, out, engine.device, engine.threads, options["state_every"], cadence)
    return content, [GroupJob(group, *what) for group in groups]


def _planned(out: Path, jobs: list[GroupJob], engine: Engine, console: Console) -> dict[str, Any]:
    from geomfast.population.estimate import footprint, planned

    check_device(engine.device)  # it is timed, if the groups are for a cluster
    engine = engine.shared_by(map(footprint, jobs))
    with console.status("timing this machine"):
        return planned(out, jobs, engine)


def _run(
    out: Path,
    jobs: list[GroupJob],
    settings: PopulationSettings,
    engine: Engine,
    console: Console,
    calls: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    from geomfast.cli.progress import display
    from geomfast.population.estimate import footprint
    from geomfast.population.running import missing
    from geomfast.runs.remaining import Piece

    engine = engine.shared_by(map(footprint, jobs))
    lacking = {job.name: missing(job) for job in jobs}
    todo = [job for job in jobs if lacking[job.name]]
    left = {job.name for job in todo}
    pieces = [
        Piece(job.name, job.group.scale, lacking[job.name], len(job.group.seeds)) for job in todo
    ]
    ended = run_work(
        out,
        todo,
        engine,
        display(console, pieces, engine, out, calls),
        console,
        succeeded=[job.name for job in jobs if job.name not in left],
        here=True,
    )
    results = [_result(job, ended.get(job.name), left=job.name in left) for job in jobs]
    members = {run_name(settings, job.group.scale, s) for job in jobs for s in job.group.seeds}
    names = members | {job.name for job in jobs}
    outcome = outcome_of(out, results, names, final=members, groups=results)
    failed = {name: why for name, why in outcome["failures"].items() if name in members}
    return outcome | {"failed_members": failed}


def _result(job: GroupJob, event: Event | None, *, left: bool) -> dict[str, Any]:
    group = job.group
    facts = {
        "scale": group.scale,
        "members": len(group.seeds),
        "at_once": group.members_per_program,
    }
    return result(job.name, event, left=left, group=group.name, **facts)


def _told(group: Mapping[str, Any]) -> str:
    together = f"{group['at_once']} at once" if group["at_once"] > 1 else "one after the other"
    told = f", {group['members']} members, {together}"
    if "train_seconds" in group:
        told += f", {group['train_seconds']:.0f} s training, "
        told += f"{group['measure_seconds']:.0f} s measuring"
    return told
