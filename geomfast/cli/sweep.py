"""``geomfast sweep``: train and measure a grid of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from geomfast.cli.choices import Finite, Levels, ListOf, Numbers, Place, Seeds
from geomfast.cli.dry_run import check_assumed, print_plan
from geomfast.cli.engine import check_device, chosen_engine
from geomfast.cli.options import (
    asked_cadence,
    cadence_option,
    dry_run_option,
    engine_options,
    json_option,
    llc_options,
    lock_option,
    stack_option,
    state_option,
)
from geomfast.cli.outcome import finish, shares
from geomfast.cli.working import described_call, refusals, run_work
from geomfast.measures import measures, spec_of
from geomfast.measures.catalog import ONE_PASS, one_pass
from geomfast.runs.folder import check_folder
from geomfast.runs.locks import locked
from geomfast.runs.outcome import outcome_of, result
from geomfast.runs.settings_file import VARIED, check_still_there, write_settings
from geomfast.runs.timing import wall_time
from geomfast.sweep.assumed import ASSUMED
from geomfast.sweep.folder import grid_specs, merge_settings
from geomfast.sweep.groups import groups_of_cells
from geomfast.sweep.plan import KEEP, MEASURE_SETTINGS, MIXTURES, RunSpec, Settings
from geomfast.sweep.presets import PRESETS
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.tasks import LEVELS, TASK_NAMES
from geomfast.testbed.training.settings import PRECISIONS, check_precision

if TYPE_CHECKING:  # which bring torch with them
    from geomfast.runs.executors.engine import Engine
    from geomfast.runs.executors.events import Event
    from geomfast.sweep.jobs import Job, StackedJob

_GRID = ("scales", "seeds", "measures")
_TRACE, _DENSITY = (spec_of(f"hessian_{name}").settings() for name in ("trace", "density"))
_PRESET = "  [default: the preset's]"
#: Settings of one measure, each with a default of its own.
_OF_MEASURES = [name for names in MEASURE_SETTINGS.values() for name in names]


@click.command()
@click.argument("out", type=Place(path_type=Path))
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="smoke",
    show_default=True,
    help="Defaults of the options without a default of their own, from minutes (smoke) to days.",
)
@click.option(
    "--tasks",
    type=ListOf("task", TASK_NAMES),
    help=f"Tasks: {', '.join(TASK_NAMES)}, or all.{_PRESET}",
)
@click.option("--levels", type=Levels(LEVELS), help=f"Difficulty levels: 1, 2, 3, or all.{_PRESET}")
@click.option(
    "--measured-levels",
    type=Levels(LEVELS),
    help="Difficulty levels that are measured, of those trained on.  [default: all of them]",
)
@click.option(
    "--scales",
    type=ListOf("scale", SCALES),
    help=f"Model sizes: {', '.join(SCALES)}, or all.{_PRESET}",
)
@click.option(
    "--seeds",
    type=Seeds(),
    help=f"Seeds of initialisation and data; ranges include both ends.{_PRESET}",
)
@click.option("--steps", type=click.IntRange(1), help=f"Optimiser steps of each run.{_PRESET}")
@click.option(
    "--checkpoints",
    type=click.IntRange(2),
    help=f"Approximate number of checkpoints to measure in each run.{_PRESET}",
)
@click.option(
    "--dense-until",
    type=click.IntRange(0),
    help=f"Step up to which checkpoints are close; later ones are spaced by ratios.{_PRESET}",
)
@click.option(
    "--dense-every", type=click.IntRange(1), help=f"Steps between close checkpoints.{_PRESET}"
)
@click.option(
    "--measures",
    type=ListOf("measure", measures(), {ONE_PASS: one_pass(measures())}),
    help=f"Measures: {', '.join(measures())}; {ONE_PASS} for every one that a forward and a "
    f"backward pass give, all for all; behaviour is always measured.{_PRESET}",
)
@cadence_option(measures(), "the preset's")
@click.option(
    "--mixture",
    type=click.Choice(MIXTURES),
    help="joint: one model for all task-levels, as in the paper; per-task: a model for each task."
    f"{_PRESET}",
)
@click.option("--batch-size", type=click.IntRange(1), help=f"Examples per optimiser step.{_PRESET}")
@click.option(
    "--learning-rate",
    type=Finite(0, min_open=True),
    help="Peak learning rate of all runs.  [default: each scale has its own]",
)
@click.option(
    "--learning-rates",
    type=Numbers("learning rate", "3e-4,1e-3", float),
    help="Peak learning rates as an axis of the grid: every scale and seed is trained with each, "
    "and runs are named by it. Claims are judged at each, and at the best of each scale.",
)
@click.option(
    "--warmups",
    type=Numbers("number of steps", "20,100", int),
    metavar="STEPS,...",
    help="Steps of linear warm-up, as an axis like --learning-rates.  [default: 100]",
)
@click.option(
    "--samples", type=click.IntRange(2), help=f"Diagnostic samples per task-level.{_PRESET}"
)
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    help="Precision of training's matrix products; measures are always computed in fp32. "
    + "; ".join(f"{name}: {what}" for name, what in PRECISIONS.items())
    + f".{_PRESET}",
)
@llc_options(
    {name: getattr(Settings, f"llc_{name}") for name in ("lr", "localization", "chains", "draws")}
)
@click.option(
    "--trace-probes",
    type=click.IntRange(6),
    help=f"Number of random vectors of each hessian_trace.  [default: {_TRACE.probes}]",
)
@click.option(
    "--density-probes",
    type=click.IntRange(1),
    help=f"Number of starting vectors of each hessian_density.  [default: {_DENSITY.probes}]",
)
@click.option(
    "--density-iterations",
    type=click.IntRange(2),
    help=f"Lanczos iterations of each starting vector.  [default: {_DENSITY.iterations}]",
)
@stack_option("the seeds of a scale (fp32 only)")
@engine_options
@click.option(
    "--keep",
    type=click.Choice(KEEP),
    default=KEEP[0],
    show_default=True,
    help="Checkpoints whose weights are kept: the last one (enough to resume), or all.",
)
@state_option
@lock_option
@dry_run_option
@click.option(
    "--assume",
    type=click.Choice(list(ASSUMED)),
    help="GPU to model, which need not be present; needs --dry-run and --device cuda.",
)
@json_option()
def sweep(out: Path, preset: str, **options: Any) -> None:
    """Train models on the tasks and measure their geometry at checkpoints.

    Running the same command again resumes; more scales, seeds, learning rates, measures, or
    checkpoints of a measure add work; other settings in the same OUT are refused. Ctrl-C or SIGTERM
    stops the measurement in hand and saves the state; a second Ctrl-C aborts at once.

    Seeds trained as one program are measured, recorded and kept as separate runs, and stay together
    when resumed.

    If a run fails, the others continue, the reason is in OUT/failures, and running the same command
    again retries it. Exit codes: 0 done, 1 something failed, 2 bad usage, 130 stopped.
    """
    given = {key: value for key, value in options.items() if value is not None}
    chosen: dict[str, Any] = PRESETS[preset] | given
    if {"learning_rate", "learning_rates"} <= given.keys():
        raise click.UsageError("--learning-rate is for all runs; give it or --learning-rates")
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
        measured_levels=options["measured_levels"],
        **{key: chosen[key] for key in _OF_MEASURES if chosen.get(key) is not None},
    )
    if extra := sorted(set(settings.measured_levels or ()) - set(settings.levels)):
        raise click.UsageError(f"--measured-levels: level {extra[0]} is not among --levels")
    default = PRESETS[preset]["cadence"]
    chosen["cadence"] = asked_cadence(options["cadence"], chosen["measures"], default)
    asked = [*_GRID, *(key for key in VARIED if key in given)]
    grid = {key: list(chosen[key]) for key in asked} | {"cadence": chosen["cadence"]}
    if options["stack"] == "always" and settings.precision != "fp32":
        raise click.UsageError(f"--stack always needs --precision fp32, not {settings.precision}")
    try:
        check_precision(settings.precision, options["device"].partition(":")[0])
    except ValueError as error:
        raise click.UsageError(f"--{error}") from error
    if options["assume"]:
        check_assumed(options)
    console = Console(stderr=options["as_json"])
    with refusals():
        check_folder(out, make=not options["dry_run"])
        if options["dry_run"]:
            engine = chosen_engine(options)
            content = merge_settings(out, settings, grid)
            _, work = _work(out, settings, content, grid, options, engine)
            plan = _planned(out, work, engine, options["assume"], console)
            print_plan(plan, console, as_json=options["as_json"])
            return
        with locked(out, str(out)):
            content = merge_settings(out, settings, grid)
            engine = chosen_engine(options)
            content["groups"], work = _work(out, settings, content, grid, options, engine)
            write_settings(out, content, described_call(preset=preset))
            outcome = _run(out, work, engine, console, content["calls"])
            check_still_there(out)
    finish(outcome, _told, console, as_json=options["as_json"])


def _run(
    out: Path,
    work: list[Job | StackedJob],
    engine: Engine,
    console: Console,
    calls: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    # These bring torch with them, so they come after everything that can be refused early.
    from geomfast.cli.progress import display
    from geomfast.sweep.footprint import footprint
    from geomfast.sweep.jobs import member_events, missing, piece_of

    engine = engine.shared_by(map(footprint, work))
    todo = [each for each in work if any(map(missing, each.members))]
    left = {job.name for each in todo for job in each.members}
    jobs = [job for each in work for job in each.members]
    names = [job.name for job in jobs]
    ended = run_work(
        out,
        todo,
        engine,
        display(console, [*map(piece_of, todo)], engine, out, calls),
        console,
        succeeded=[name for name in names if name not in left],
        results=member_events,
    )
    results = [_result(job, ended.get(job.name), left=job.name in left) for job in jobs]
    return outcome_of(out, results, names, runs=results)


def _result(job: Job, event: Event | None, *, left: bool) -> dict[str, Any]:
    told = result(job.name, event, left=left, run=job.name)
    if event is not None and job.records.is_dir() and any(job.records.glob("*.parquet")):
        table = wall_time(job.records)
        told["seconds"] = dict(zip(table["part"], table["seconds"], strict=True))
    return told


def _told(run: Mapping[str, Any]) -> str:
    told = f" after {shares(run['seconds'])}" if run.get("seconds") else ""
    if run.get("real_fraction"):  # none where everything had been trained before
        told += f"; {run['real_fraction']:.1%} of the tokens processed were real"
    return told


def _planned(
    out: Path,
    work: list[Job | StackedJob],
    engine: Engine,
    assume: str | None,
    console: Console,
) -> dict[str, Any]:
    from geomfast.sweep.estimate import planned
    from geomfast.sweep.footprint import footprint

    assumed = ASSUMED.get(assume or "")
    cores = round(assumed.cores.value) if assumed else None
    free = (lambda _: round(assumed.memory.value)) if assumed else None
    engine = engine.shared_by(map(footprint, work), cores, free)
    if not assumed:  # it is timed, if the runs are for a cluster
        check_device(engine.device)
    with console.status("timing this machine"):
        return planned(out, work, engine, assumed)


def _work(
    out: Path,
    settings: Settings,
    content: dict[str, Any],
    grid: Mapping[str, Any],
    options: dict[str, Any],
    engine: Engine,
) -> tuple[list[dict[str, Any]], list[Job | StackedJob]]:
    """The groups of seeds that the folder has then, and the pieces of work asked for."""
    from geomfast.sweep.jobs import Job, runs_per_program, work_of

    measured = tuple(grid["measures"])
    what = (settings, measured, out, engine.device, engine.threads, options["keep"])
    asked = grid_specs(settings, grid)
    every = {
        spec.run: Job(spec, *what, cadence=grid["cadence"], state_every=options["state_every"])
        for spec in grid_specs(settings, content["grid"])
    }

    def program_size(spec: RunSpec, members: int) -> int:
        return runs_per_program(every[spec.run], members, options["stack"])

    groups = groups_of_cells(content["groups"], asked, out, program_size, engine.workers or 1)
    wanted = {spec.run for spec in asked}
    mates = {run for group in groups if wanted & set(group["runs"]) for run in group["runs"]}
    jobs = [job for run, job in every.items() if run in wanted | mates]
    return groups, work_of(jobs, groups)
