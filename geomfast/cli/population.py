"""``geomfast population``: hundreds of seeds of every scale on a task of length generalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console

from geomfast.cli import population_base
from geomfast.cli.choices import AxisOf, Finite, ListOf, Numbers, Place, ScaleNames, Seeds
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
from geomfast.measures import measures, needing
from geomfast.measures.spec import OF_ACTIVATIONS
from geomfast.population.folder import groups_of, merge_settings
from geomfast.population.plan import (
    MEASURES,
    PopulationSettings,
    at_point,
    check,
    run_name,
    scale_of,
)
from geomfast.population.points import AXES, points
from geomfast.population.tasks import TASKS, not_taken
from geomfast.runs.executors.engine import Engine
from geomfast.runs.folder import check_folder
from geomfast.runs.locks import locked
from geomfast.runs.outcome import outcome_of, result
from geomfast.runs.settings_file import check_still_there, write_settings
from geomfast.testbed.models.scales import POSITIONAL_ENCODINGS
from geomfast.testbed.tasks import GRAMMAR_TASKS, LENGTH_TASKS

if TYPE_CHECKING:  # which bring torch with them
    from geomfast.population.running import GroupJob
    from geomfast.runs.executors.events import Event

_MEASURES = needing(measures(), *OF_ACTIVATIONS)
_TASKS = "; ".join(
    f"{name}: {task.summary}" for name, task in {**LENGTH_TASKS, **GRAMMAR_TASKS}.items()
)
_AXES = "; ".join(f"{name}: {axis.shown}" for name, axis in AXES.items())


def _by_task(name: str) -> str:
    """The defaults of a setting, for a help text."""
    texts: dict[str, list[str]] = {}
    for task, of in TASKS.items():
        value = getattr(of.defaults, name)
        if value:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            texts.setdefault(shown, []).append(task)
    if len(texts) == 1:
        return next(iter(texts))
    return "; ".join(f"{', '.join(tasks)} {shown}" for shown, tasks in texts.items())


@click.command()
@click.argument("out", type=Place(path_type=Path))
@click.option(
    "--task",
    type=click.Choice(list(TASKS)),
    default="count",
    show_default=True,
    help=f"{_TASKS}.",
)
@click.option(
    "--scales",
    type=ScaleNames(),
    help=f"Scales, each by its number of layers and its width.  [default: {_by_task('scales')}]",
)
@click.option(
    "--axis",
    "axes",
    type=AxisOf(),
    multiple=True,
    help=f"Vary this beside or instead of the scale; repeat for a grid. {_AXES}.",
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
    help=f"Optimiser steps of each member.  [default: {_by_task('steps')}]",
)
@click.option(
    "--train-length",
    type=click.IntRange(1),
    help=f"Longest examples to train on.  [default: {_by_task('train_length')}]",
)
@click.option(
    "--test-lengths",
    type=Numbers("length", "16,24", int),
    help="Lengths of examples to test on, besides the longest trained on.  "
    f"[default: {_by_task('test_lengths')}]",
)
@click.option(
    "--mixture",
    type=Finite(0, max=1),
    help="Grammar tasks: share of transformed training sentences in which the linear and the "
    "hierarchical rule differ.  [default: 0]",
)
@click.option(
    "--embedded",
    type=Finite(0, max=1),
    help="Grammar tasks: share of copied training sentences with an embedded clause, or noun of "
    "the other number, before the main verb.  [default: 0.5]",
)
@click.option(
    "--positions",
    type=click.Choice(POSITIONAL_ENCODINGS),
    default="learned",
    show_default=True,
    help="Positional encoding: learned table (with random starts where lengths vary); none; "
    "rotary; ALiBi.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Examples per member and step; every length is equally frequent.  "
    f"[default: {_by_task('batch_size')}]",
)
@click.option(
    "--weight-decay",
    type=Finite(0),
    default=0.01,
    show_default=True,
    help="AdamW's, of matrices.",
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
    help="Diagnostic samples per length or test set; with --base test examples, all without.",
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
@population_base.base_options
@engine_options
@state_option
@lock_option
@dry_run_option
@json_option()
def population(
    out: Path,
    scales: tuple[str, ...] | None,
    seeds: tuple[int, ...],
    axes: tuple[tuple[str, list[Any]], ...],
    **options: Any,
) -> None:
    """Train many seeds of every scale, and see how what they reach is distributed.

    Members learn from short examples and are tested on longer ones, or from sentences that a linear
    and a hierarchical rule explain and are tested on those that tell the rules apart.

    Running the same command again resumes; more scales, seeds, measures, or checkpoints of a
    measure add work; other settings in the same OUT are refused. Ctrl-C or SIGTERM stops the
    measurement in hand and saves the state; a second Ctrl-C aborts at once.

    A member whose loss becomes infinite or NaN is not recorded from then on; the others continue,
    and the reason is in OUT/failures. Exit codes: 0 done, 1 something failed, 2 bad usage, 130
    stopped.

    Members of a scale are trained in groups that stay together, each group by one worker.

    With --base, members are pre-trained language models whose last parts are initialised anew, and
    that are trained and tested on examples of multiple choice. There 2000 steps of 16 examples, a
    learning rate of 1e-3 (1e-4 with --trained all) and all of TEST are the defaults.
    """
    if population_base.with_base():
        population_base.run(out, seeds, options)
        return
    varied = _varied(axes)
    options["axes"] = axes
    settings = _settings(options, varied)
    scales = tuple(points(scales or TASKS[settings.task].defaults.scales, varied))
    cadence = asked_cadence(options["cadence"], settings.measures)
    console = Console(stderr=options["as_json"])
    with refusals():
        for point in scales:
            check(at_point(settings, point))
            scale_of(settings, point)
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


def _varied(axes: Sequence[tuple[str, list[Any]]]) -> dict[str, list[Any]]:
    """Values of each axis by its name.

    Raises:
        click.UsageError: an axis is there twice, or beside the option that fixes it.
    """
    context = click.get_current_context()
    for name, _ in axes:
        if [other for other, _ in axes].count(name) > 1:
            raise click.UsageError(f"--axis {name} is there twice: give all its values at once")
        if context.get_parameter_source(AXES[name].field) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--axis {name} and --{name}: give the one or the other")
    return dict(axes)


def _settings(options: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> PopulationSettings:
    """The settings that all points share, where they are not varied.

    Raises:
        click.UsageError: an option or an axis that the task does not have.
    """
    task = options["task"]
    defaults = TASKS[task].defaults
    given = {"train_length", "test_lengths", "mixture", "embedded"}
    given = {name for name in given if options[name] is not None}
    if strange := not_taken(task, sorted(given | {AXES[name].field for name in axes})):
        name = f"--{strange[0].replace('_', '-')}"
        how = name if strange[0] in given else f"--axis {name[2:]}"
        raise click.UsageError(f"{how}: {task} has none; it is of other tasks")
    return PopulationSettings(
        task=task,
        train_length=options["train_length"] or defaults.train_length,
        test_lengths=options["test_lengths"] or defaults.test_lengths,
        steps=options["steps"] or defaults.steps,
        batch_size=options["batch_size"] or defaults.batch_size,
        learning_rate=options["learning_rate"],
        samples=options["samples"],
        checkpoints=options["checkpoints"],
        measures=options["measures"],
        mixture=options["mixture"] or 0.0,
        embedded=0.5 if options["embedded"] is None else options["embedded"],
        weight_decay=options["weight_decay"],
        positions=options["positions"],
    )


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

    varied = [AXES[name].field for name in dict(options["axes"])]
    content = merge_settings(
        out,
        settings,
        scales,
        seeds,
        stack=options["stack"],
        device=engine.device,
        tokens={of: batches_of(at_point(settings, of), "cpu").processed for of in scales},
        cadence=cadence,
        varied=varied,
    )
    groups = groups_of(content, scales, seeds)
    what = (out, engine.device, engine.threads, options["state_every"], cadence)
    return content, [GroupJob(g, at_point(settings, g.scale), *what) for g in groups]


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
    from geomfast.population.job import missing
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
