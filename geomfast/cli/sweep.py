"""``geomfast sweep``: train and measure a grid of runs."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from geomfast import machine
from geomfast.cli.choices import CadenceOf, Finite, Levels, ListOf, Place, Seeds
from geomfast.cli.dry_run import check_assumed, planned, show_plan
from geomfast.cli.engine import Engine, chosen_engine, engine_options
from geomfast.cli.interrupts import asked_to_stop
from geomfast.cli.locks import lock_option
from geomfast.cli.outcome import outcome_of, show_outcome
from geomfast.cli.states import state_option
from geomfast.measures import measures, spec_of
from geomfast.runs.errors import PlanError
from geomfast.runs.failures import clear_failure, mark_failed
from geomfast.runs.folder import check_folder
from geomfast.runs.locks import locked
from geomfast.runs.settings_file import check_still_there, write_settings
from geomfast.sweep.assumed import ASSUMED
from geomfast.sweep.folder import settled
from geomfast.sweep.groups import groups_of_cells
from geomfast.sweep.plan import KEEP, MEASURE_SETTINGS, MIXTURES, Cell, Settings, cells
from geomfast.sweep.presets import PRESETS
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.tasks import LEVELS, TASK_NAMES
from geomfast.testbed.training.settings import PRECISIONS, check_precision
from geomfast.testbed.training.stacking import STACK

if TYPE_CHECKING:  # which brings torch with it
    from geomfast.sweep.jobs import Job, StackedJob

_GRID = ("scales", "seeds", "measures")
#: Settings of one measure, each with a default of its own.
_OF_MEASURES = [name for names in MEASURE_SETTINGS.values() for name in names]


@click.command(short_help="Train and measure a grid of runs; resumes where it was left.")
@click.argument("out", type=Place(path_type=Path))
@click.option("--preset", default="smoke", show_default=True, help=f"{', '.join(PRESETS)}.")
@click.option("--tasks", type=ListOf("task", TASK_NAMES), help=f"{', '.join(TASK_NAMES)}; or all.")
@click.option("--levels", type=Levels(LEVELS), help="1, 2, 3; or all.")
@click.option("--scales", type=ListOf("scale", SCALES), help=f"{', '.join(SCALES)}; or all.")
@click.option("--seeds", type=Seeds(), help="Initialisation and data; ranges include both ends.")
@click.option("--steps", type=click.IntRange(1), help="Optimiser steps of a run.")
@click.option("--checkpoints", type=click.IntRange(2), help="About how many to measure, in all.")
@click.option(
    "--measures",
    type=ListOf("measure", measures()),
    help=f"{', '.join(measures())}; behaviour is always measured.",
)
@click.option(
    "--cadence",
    type=CadenceOf(measures()),
    help="At how many checkpoints to take a measure, over the preset's: llc=8,fisher_rank=all.",
)
@click.option(
    "--mixture",
    type=click.Choice(MIXTURES),
    help="One model for all task-levels (as in the paper), or one for each task.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Examples per step.")
@click.option(
    "--learning-rate", type=Finite(0, min_open=True), help="Peak; each scale has its own."
)
@click.option("--samples", type=click.IntRange(2), help="Diagnostic samples per task-level.")
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    help="Of training's matrix products, measures are always fp32. "
    + "; ".join(f"{name}: {what}" for name, what in PRECISIONS.items())
    + ".",
)
@click.option(
    "--llc-lr",
    type=Finite(0, min_open=True),
    help=f"Step size of llc's chains.  [default: {Settings.llc_lr:g}; see calibrate-llc]",
)
@click.option(
    "--llc-localization",
    type=Finite(0),
    help=f"Their pull back to the weights.  [default: {Settings.llc_localization:g}]",
)
@click.option(
    "--llc-chains", type=click.IntRange(1), help=f"How many.  [default: {Settings.llc_chains}]"
)
@click.option(
    "--llc-draws", type=click.IntRange(4), help=f"Of each.  [default: {Settings.llc_draws}]"
)
@click.option(
    "--trace-probes",
    type=click.IntRange(6),
    help=f"Products of a hessian_trace.  [default: {spec_of('hessian_trace').settings().probes}]",
)
@click.option(
    "--density-probes",
    type=click.IntRange(1),
    help=f"Starts of a hessian_density.  [default: {spec_of('hessian_density').settings().probes}]",
)
@click.option(
    "--density-iterations",
    type=click.IntRange(2),
    help=f"Products of each.  [default: {spec_of('hessian_density').settings().iterations}]",
)
@click.option(
    "--stack",
    type=click.Choice(STACK),
    default=STACK[0],
    show_default=True,
    help="Seeds of a scale as one program (fp32 only), one by one, or what is faster at its size.",
)
@engine_options
@click.option(
    "--keep",
    type=click.Choice(KEEP),
    default=KEEP[0],
    show_default=True,
    help="Keep the weights of the last checkpoint (with what a resume needs) or of all.",
)
@state_option
@lock_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Write nothing: print what is left, with estimated time, memory and disk of every run.",
)
@click.option(
    "--assume",
    type=click.Choice(list(ASSUMED)),
    help="With --dry-run and --device cuda: model this GPU, which need not be here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome, or plan, as JSON.")
def sweep(out: Path, preset: str, **options: Any) -> None:
    """Train models on the tasks and measure their geometry at checkpoints.

    Running the same command again resumes; more scales, seeds, measures, or checkpoints of a
    measure add work; other settings in the same OUT are refused. Ctrl-C or SIGTERM
    drops the measure in hand and saves the state; a second Ctrl-C ends at once.

    Seeds that are trained as one program are measured, recorded and kept as runs of their own, and
    stay together from then on.

    A run that fails leaves the others running, and why in OUT/failures; running the same command
    again tries it again.
    """
    if preset not in PRESETS:
        raise click.UsageError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    given = {key: value for key, value in options.items() if value is not None}
    chosen: dict[str, Any] = PRESETS[preset] | given
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
        **{key: chosen[key] for key in _OF_MEASURES if chosen.get(key) is not None},
    )
    chosen["cadence"] = _cadence(preset, chosen["measures"], options["cadence"])
    grid = {key: list(chosen[key]) for key in _GRID} | {"cadence": chosen["cadence"]}
    if options["stack"] == "always" and settings.precision != "fp32":
        raise click.UsageError(f"--stack always needs --precision fp32, not {settings.precision}")
    try:
        check_precision(settings.precision, options["device"].partition(":")[0])
    except ValueError as error:
        raise click.UsageError(f"--{error}") from error
    if options["assume"]:
        check_assumed(options)
    console = Console(stderr=options["as_json"])
    try:
        check_folder(out, make=not options["dry_run"])
        if options["dry_run"]:
            content = settled(out, settings, grid)
            assumed = ASSUMED.get(options["assume"])
            engine = chosen_engine(options)
            _, work = _work(out, settings, content, chosen, options, engine)
            engine = engine.shared_by(work, assumed)
            with console.status("timing this machine"):
                plan = planned(out, work, engine, assumed)
            click.echo(json.dumps(plan)) if options["as_json"] else show_plan(plan, console)
            return
        with locked(out, str(out)):
            content = settled(out, settings, grid)
            engine = chosen_engine(options)
            content["groups"], work = _work(out, settings, content, chosen, options, engine)
            engine = engine.shared_by(work)
            write_settings(out, content, described_call(preset=preset))
            outcome = _run(out, settings.steps, work, engine, console)
            check_still_there(out)
    except PlanError as error:
        raise click.UsageError(str(error)) from error
    if options["as_json"]:
        click.echo(json.dumps(outcome))
    else:
        show_outcome(outcome, console)
    if any(run["state"] == "failed" for run in outcome["runs"]):
        sys.exit(1)
    if any(run["state"] == "stopped" for run in outcome["runs"]):
        sys.exit(130)


def _run(
    out: Path, steps: int, work: list[Job | StackedJob], engine: Engine, console: Console
) -> dict[str, Any]:
    # These bring torch with them, so they come after everything that can be refused early.
    from geomfast.cli.progress import display
    from geomfast.runs.executors.events import LAST, Event
    from geomfast.sweep.jobs import member_events, missing

    ended: dict[str, Event] = {}
    todo = {each.name: each for each in work if any(map(missing, each.members))}
    for job in (job for each in work if each.name not in todo for job in each.members):
        clear_failure(out, job.cell.run)
    with ExitStack() as stack:
        stopping = stack.enter_context(asked_to_stop())
        with console.status(f"waiting for {engine}"):
            events = stack.enter_context(engine.events(list(todo.values()), stopping))
        shown = stack.enter_context(display(console, steps, len(todo)))
        for event in events:
            shown.show(event)
            if event.kind not in LAST:
                continue
            if event.kind == "failed":
                for job in todo[event.run].members:
                    mark_failed(out, job.cell.run, event.step, event.error, event.details)
            for own in member_events(todo[event.run], event):
                ended[own.run] = own
                if own.kind == "finished":
                    clear_failure(out, own.run)
    jobs = [job for each in work for job in each.members]
    left = [job for each in todo.values() for job in each.members]
    return outcome_of(out, jobs, left, ended)


def _cadence(
    preset: str, measures: tuple[str, ...], asked: dict[str, int | None] | None
) -> dict[str, int]:
    """Of how many checkpoints each measure is taken; of all where it is not named."""
    for measure in asked or {}:
        if measure not in measures:
            raise click.UsageError(f"--cadence {measure}: it is not among --measures")
    counts = PRESETS[preset]["cadence"] | (asked or {})
    return {name: counts[name] for name in measures if counts.get(name) is not None}


def _work(
    out: Path,
    settings: Settings,
    content: dict[str, Any],
    chosen: dict[str, Any],
    options: dict[str, Any],
    engine: Engine,
) -> tuple[list[dict[str, Any]], list[Job | StackedJob]]:
    """The groups of seeds that the folder has then, and the pieces of work asked for."""
    from geomfast.sweep.jobs import Job, runs_per_program, work_of

    what = (settings, chosen["measures"], out, engine.device, engine.threads, options["keep"])
    asked = cells(settings, chosen["scales"], chosen["seeds"])
    grid = content["grid"]
    every = {
        cell.run: Job(cell, *what, cadence=chosen["cadence"], state_every=options["state_every"])
        for cell in cells(settings, tuple(grid["scales"]), tuple(grid["seeds"]))
    }

    def at_once(cell: Cell, members: int) -> int:
        return runs_per_program(every[cell.run], members, options["stack"])

    groups = groups_of_cells(content["groups"], asked, out, at_once, engine.workers or 1)
    wanted = {cell.run for cell in asked}
    mates = {run for group in groups if wanted & set(group["runs"]) for run in group["runs"]}
    jobs = [job for run, job in every.items() if run in wanted | mates]
    return groups, work_of(jobs, groups)


def described_call(**more: str) -> dict[str, Any]:
    """What a reader of the folder wants to know of this call and no number depends on.

    Args:
        more: options worth naming beside the command line.
    """
    arguments = click.get_current_context().command_path
    return {
        "command": shlex.join([arguments.split()[0], *sys.argv[1:]]),
        **more,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "versions": machine.versions(),
    }
