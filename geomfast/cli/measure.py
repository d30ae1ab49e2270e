"""``geomfast measure``: checkpoints that are there already, of any training."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from geomfast.cli.choices import Finite, ListOf, Place, Words
from geomfast.cli.engine import Engine, chosen_engine, engine_options
from geomfast.cli.interrupts import asked_to_stop
from geomfast.cli.locks import lock_option
from geomfast.cli.measured import Shown, outcome_of, planned, show_outcome, show_plan
from geomfast.cli.sweep import described_call
from geomfast.measures import measures
from geomfast.runs.errors import PlanError
from geomfast.runs.failures import mark_failed
from geomfast.runs.folder import check_folder
from geomfast.runs.locks import locked
from geomfast.runs.settings_file import check_still_there, write_settings

if TYPE_CHECKING:  # which bring torch with them
    from geomfast.runs.executors.events import Event
    from geomfast.series.checkpoint import Series
    from geomfast.series.running import MeasureJob

_CHANGES = ("samples", "llc_lr", "llc_localization", "llc_chains", "llc_draws", "llc_burn_in")
_DTYPES = ("float32", "bfloat16", "float16")


@click.command(short_help="Measure checkpoints that are there already; resumes where it was left.")
@click.argument("source", type=Place())
@click.option(
    "--revisions",
    type=Words("revision"),
    default="",
    help="Of a model on the hub: step0,step1000,... or all whose name tells a step.  [default: "
    "main]",
)
@click.option(
    "--measures",
    type=ListOf("measure", measures()),
    default="rankme",
    show_default=True,
    help=f"{', '.join(measures())}; behaviour is always measured.",
)
@click.option(
    "--probes",
    type=Words("probe set"),
    help="Of language models: built-in sets by name, JSONL files, or builtin for all of the "
    "former.  [default: builtin]",
)
@click.option(
    "--samples",
    type=click.IntRange(2),
    help="Of every probe set or task-level, its first.  [default: all; as the sweep]",
)
@click.option(
    "--dtype",
    type=click.Choice(_DTYPES),
    help="To load language models in; spectra are computed in float64.  [default: float32]",
)
@click.option("--llc-lr", type=Finite(0, min_open=True), help="Step size of llc's chains.")
@click.option("--llc-localization", type=Finite(0), help="Their pull to the weights.")
@click.option("--llc-chains", type=click.IntRange(1), help="How many.")
@click.option("--llc-draws", type=click.IntRange(4), help="Of each.")
@click.option("--llc-burn-in", type=click.IntRange(0), help="Steps of each before the first draw.")
@click.option(
    "--out",
    type=Place(path_type=Path),
    help="Folder for the records.  [default: SOURCE-measured beside a folder, measured/MODEL]",
)
@click.option(
    "--keep-cache",
    is_flag=True,
    help="Download to the hub's own cache and leave it there, instead of two checkpoints at a time "
    "to OUT/downloads.",
)
@engine_options
@lock_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Write and download nothing: print what is left, its download and its time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome, or plan, as JSON.")
def measure(source: str, out: Path | None, **options: Any) -> None:
    """Measure the geometry of checkpoints, of any training.

    SOURCE is the OUT folder of a geomfast sweep (or its checkpoints, or those of one run), measured
    on its own diagnostic samples; a folder of Hugging Face checkpoints (step1000, checkpoint-500,
    ...) or a single one; or the id of a model on the Hugging Face hub.

    One checkpoint is measured while the next is fetched. Running the same command again resumes;
    more checkpoints or measures add work; other settings in the same OUT are refused. Ctrl-C or
    SIGTERM drops the measure in hand and writes those that the checkpoint has; a second Ctrl-C ends
    at once. A kill loses at most one checkpoint.

    A checkpoint that cannot be measured leaves the others as they are, and why in OUT/failures.
    Exit codes: 0 done, 1 something failed, 2 bad usage, 130 stopped.
    """
    console = Console(stderr=options["as_json"])
    try:
        outcome = _measure(source, out, options, console)
    except PlanError as error:
        raise click.UsageError(str(error)) from error
    if outcome is None:
        return
    if options["as_json"]:
        click.echo(json.dumps(outcome))
    else:
        show_outcome(outcome, console)
    states = {job["state"] for job in outcome["jobs"]}
    if "failed" in states:
        sys.exit(1)
    if "stopped" in states:
        sys.exit(130)


def _measure(
    source: str, out: Path | None, options: dict[str, Any], console: Console
) -> dict[str, Any] | None:
    # These bring torch with them, so they come after everything that can be refused early.
    from geomfast.runs.model_folder import settled
    from geomfast.series.checkpoint import SourceUnreachable
    from geomfast.series.plan import default_out, jobs_of, remove_partial_writes, series_of

    out = default_out(source) if out is None else out
    check_folder(out, make=not options["dry_run"])
    engine = chosen_engine(options)
    try:
        series = series_of(
            source,
            options["revisions"],
            out,
            {name: options[name] for name in _CHANGES},
            probes=options["probes"],
            dtype=options["dtype"],
            keep_cache=options["keep_cache"],
        )
    except SourceUnreachable as error:
        raise click.ClickException(str(error)) from error
    measures = _measures(series[0], options["measures"])
    content = settled(
        out,
        series[0].shared(),
        {name: series[0].of(name) for name in measures},
        {one.run: [checkpoint.name for checkpoint in one.checkpoints] for one in series},
        chance={name: rate for one in series for name, rate in one.chance.items()},
    )
    what: dict[str, Any] = {"device": engine.device, "threads": engine.threads}
    what["workers"] = engine.workers
    if options["dry_run"]:
        plan = planned(out, series, jobs_of(series, measures, out, **what), measures)
        click.echo(json.dumps(plan)) if options["as_json"] else show_plan(plan, console)
        return None
    with locked(out, str(out)):
        write_settings(out, content, described_call())
        jobs = jobs_of(series, measures, out, **what)
        remove_partial_writes(out, jobs)
        outcome = _run(out, series, jobs, engine, console)
        check_still_there(out)
        return outcome


def _measures(series: Series, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Those asked for, which the series has to have; of all of them, those it has."""
    if asked == measures():
        return series.measures
    for name in asked:
        if name not in series.measures:
            there = ", ".join(series.measures)
            raise PlanError(f"--measures {name}: not of checkpoints like these; there are: {there}")
    return asked


def _run(
    out: Path, series: list[Series], jobs: list[MeasureJob], engine: Engine, console: Console
) -> dict[str, Any]:
    from geomfast.runs.executors.events import LAST, attempt

    ended: dict[str, Event] = {}
    with asked_to_stop() as stopping, Shown(console, out, jobs) as shown:

        def hear(event: Event) -> None:
            shown.show(event)
            if event.kind in LAST:
                ended[event.run] = event
                if event.kind == "failed" and not event.explained:
                    mark_failed(out, event.run, event.step, event.error, event.details)

        if engine.name == "local" and len(jobs) == 1:
            # A process of its own would load torch and transformers once more, for nothing.
            hear(attempt(jobs[0], hear, stopping, patience=30.0))
        else:
            with engine.events(jobs, stopping) as events:
                for event in events:
                    hear(event)
    return outcome_of(out, series, jobs, ended)
