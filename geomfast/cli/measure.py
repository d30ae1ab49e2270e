"""``geomfast measure``: measures existing checkpoints, of any training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from geomfast.cli.choices import ListOf, Place, Words
from geomfast.cli.dry_run import print_plan
from geomfast.cli.engine import chosen_engine
from geomfast.cli.measured import planned, show_plan
from geomfast.cli.options import (
    asked_cadence,
    cadence_option,
    engine_options,
    json_option,
    llc_options,
    lock_option,
)
from geomfast.cli.outcome import finish, say
from geomfast.cli.working import described_call, refusals, run_work
from geomfast.lm.probe_sets import BUILT_IN
from geomfast.measures import measures, spec_of
from geomfast.measures.catalog import ONE_PASS, one_pass
from geomfast.runs.errors import PlanError
from geomfast.runs.executors.engine import Engine
from geomfast.runs.failures import failed_before
from geomfast.runs.folder import check_folder
from geomfast.runs.locks import locked
from geomfast.runs.outcome import outcome_of, result
from geomfast.runs.settings_file import check_still_there, write_settings
from geomfast.series.patterns import USUAL_NAMES

if TYPE_CHECKING:  # which bring torch with them
    from geomfast.series.checkpoint import Series
    from geomfast.series.running import MeasureJob

_LLC = ("lr", "localization", "chains", "draws", "burn_in")
_CHANGES = ("samples", *(f"llc_{name}" for name in _LLC))
_DTYPES = ("float32", "bfloat16", "float16")


@click.command()
@click.argument("source", type=Place())
@click.option(
    "--revisions",
    type=Words("revision"),
    default="",
    help="Revisions of a model on the hub, for instance step0,step1000; all for every revision "
    "whose name contains a step.  [default: main]",
)
@click.option(
    "--measures",
    type=ListOf("measure", measures(), {ONE_PASS: one_pass(measures())}),
    default="rankme",
    show_default=True,
    help=f"Measures: {', '.join(measures())}; {ONE_PASS} for every one that a forward and a "
    f"backward pass give, all for all; behaviour is always measured.",
)
@cadence_option(measures(), "all")
@click.option(
    "--names",
    help="How scale and seed of several models are read from their names.  "
    f"[default: {USUAL_NAMES} where SOURCE is several]",
)
@click.option(
    "--probes",
    type=Words("probe set", ("builtin", *BUILT_IN)),
    help=f"Probe sets for language models: {', '.join(BUILT_IN)}; builtin for all of these; or "
    "JSONL files, in the format above.  [default: builtin, or none with --texts]",
)
@click.option(
    "--texts",
    type=Words("file"),
    help="Texts of a corpus for language models, instead of choices or beside them: JSONL files "
    'with a "text" on every line, or files of one text a line. States are those of the last token '
    "that is read of a text; behaviour is the mean loss per token.",
)
@click.option(
    "--text-tokens",
    type=click.IntRange(2),
    help="Tokens that are read of each text, its first ones.  [default: 512]",
)
@click.option(
    "--samples",
    type=click.IntRange(2),
    help="Number of samples of each probe set, file of texts or task-level, the first ones.  "
    "[default: all; for a sweep its own number]",
)
@click.option(
    "--dtype",
    type=click.Choice(_DTYPES),
    help="Type of the weights of loaded language models; spectra are computed in float64.  "
    "[default: float32]",
)
@llc_options({name: spec_of("llc").defaults[name] for name in _LLC}, "; for a sweep its own")
@click.option(
    "--out",
    type=Place(path_type=Path),
    help="Folder for the records.  [default: SOURCE-measured for a folder, measured/MODEL for a "
    "model of the hub]",
)
@click.option(
    "--keep-cache",
    is_flag=True,
    help="Download to the cache of the hub and keep the files there. Without, they go to "
    "OUT/downloads, two checkpoints at a time, and are deleted.",
)
@engine_options
@lock_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Write and download nothing; print what is left to do, its size and its time.",
)
@json_option()
def measure(source: str, out: Path | None, **options: Any) -> None:
    """Measure the geometry of checkpoints, of any training.

    SOURCE is the OUT folder of a geomfast sweep (or its checkpoints, or those of one run), measured
    on its own diagnostic samples; a folder of Hugging Face checkpoints (step1000, checkpoint-500,
    ...) or a single one; or the id of a model on the Hugging Face hub. It may be several of them as
    a pattern, "EleutherAI/pythia-{14m,70m}-seed{1..9}", whose outcomes over seeds geomfast report
    OUT --population shows.

    One checkpoint is measured while the next is fetched. Running the same command again resumes;
    more checkpoints or measures add work; other settings in the same OUT are refused. Ctrl-C or
    SIGTERM stops the measurement in hand and writes the finished ones of the checkpoint; a second
    Ctrl-C aborts at once. A kill loses at most one checkpoint.

    A JSONL file of a probe set has one JSON object a line, with a prompt, two or more choices, and
    the right one by its number from 0 or by its text:

    \b
        {"prompt": "The sky is", "choices": ["blue", "sour"], "answer": 0}

    If a checkpoint cannot be measured, the others are, and the reason is in OUT/failures. Exit
    codes: 0 done, 1 something failed, 2 bad usage, 130 stopped.
    """
    console = Console(stderr=options["as_json"])
    with refusals():
        found = _measure(source, out, options, console)
    if options["dry_run"]:
        print_plan(found, console, as_json=options["as_json"], show=show_plan)
    else:
        finish(found, _told, console, as_json=options["as_json"])


def _measure(
    source: str, out: Path | None, options: dict[str, Any], console: Console
) -> dict[str, Any]:
    """The outcome, or the plan."""
    # These bring torch with them, so they come after everything that can be refused early.
    from geomfast.runs.model_folder import merge_settings
    from geomfast.series.checkpoint import SourceUnreachable
    from geomfast.series.plan import (
        default_out,
        jobs_of,
        remove_partial_writes,
        series_of,
        shared_settings,
    )

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
            texts=options["texts"],
            text_tokens=options["text_tokens"],
            dtype=options["dtype"],
            keep_cache=options["keep_cache"],
            names=options["names"],
        )
    except SourceUnreachable as error:
        raise click.ClickException(str(error)) from error
    measures = _measures(series[0], options["measures"])
    cadence = asked_cadence(options["cadence"], measures)
    what: dict[str, Any] = {"device": engine.device, "threads": engine.threads}
    what |= {"workers": engine.workers, "cadence": cadence}
    with nullcontext() if options["dry_run"] else locked(out, str(out)):
        content = merge_settings(
            out,
            shared_settings(series),
            {name: series[0].of(name) for name in measures},
            {one.run: [checkpoint.name for checkpoint in one.checkpoints] for one in series},
            chance={name: rate for one in series for name, rate in one.chance.items()},
            cadence=cadence,
        )
        if options["dry_run"]:
            return planned(out, series, jobs_of(series, measures, out, **what), measures)
        write_settings(out, content, described_call())
        jobs = jobs_of(series, measures, out, **what)
        remove_partial_writes(out, jobs)
        outcome = _run(out, series, jobs, engine, console, content["calls"])
        check_still_there(out)
        return outcome


def _measures(series: Series, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The requested measures, which must be available; of a word for several, those that are."""
    if asked in (measures(), one_pass(measures())):
        return tuple(name for name in asked if name in series.measures)
    for name in asked:
        if name not in series.measures:
            there = ", ".join(series.measures)
            raise PlanError(f"--measures {name}: not of checkpoints like these; there are: {there}")
    return asked


def _run(
    out: Path,
    series: list[Series],
    jobs: list[MeasureJob],
    engine: Engine,
    console: Console,
    calls: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    from geomfast.cli.progress import display
    from geomfast.runs.remaining import OVERHEAD, Piece
    from geomfast.series.running import checkpoint_name

    left = {checkpoint_name(job.series.run, step) for job in jobs for step in job.steps}
    names = {checkpoint_name(one.run, c.step) for one in series for c in one.checkpoints}
    # How many jobs a run is shared by, and so their names, may be others than before.
    run = "|".join(re.escape(one.run) for one in series)
    before = {name for name in failed_before(out) if re.fullmatch(rf"({run})(-\d+of\d+)?", name)}
    now = {job.name for job in jobs}
    pieces = []
    for job in jobs:
        takes = {step: names | {*OVERHEAD} for step, names in job.lacking.items()}
        pieces.append(Piece(job.name, job.series.scale, takes, trains=False))
    say(console, f"Records go to {out}")
    ended = run_work(
        out,
        jobs,
        engine,
        display(console, pieces, engine, out, calls),
        console,
        succeeded=(names - left) | (before - now),
        here=True,
    )
    results = [
        result(job.name, ended.get(job.name), left=True, job=job.name, checkpoints=len(job.steps))
        for job in jobs
    ]
    runs = {one.run: len(one.checkpoints) for one in series}
    told = outcome_of(out, results, names | now, jobs=results, runs=runs)
    named = any(getattr(one, "named", None) for one in series)  # models by scale and seed
    return told | ({"population": True} if named else {})


def _told(job: Mapping[str, Any]) -> str:
    if "measured" not in job:
        return ""
    done = f", {job['measured']:.0f} checkpoints measured in {job['measure_seconds']:.0f} s"
    return f"{done} and {job['wait_seconds']:.0f} s waited for files"
