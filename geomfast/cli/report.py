"""``geomfast report``: tables, figures and one HTML page from the records of a sweep."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from geomfast.analysis.paper import REFERENCES
from geomfast.cli.choices import Place
from geomfast.cli.options import json_option
from geomfast.cli.refused import Refused
from geomfast.files import FileError, printable
from geomfast.machine import usable_cores
from geomfast.records import RecordsError, part_files
from geomfast.runs.errors import PlanError


@click.command()
@click.argument("out", type=Place("file", path_type=Path))
@click.option(
    "--html",
    type=Place("file", path_type=Path, dir_okay=False),
    help="File of the page.  [default: OUT/report.html]",
)
@click.option(
    "--against",
    type=click.Choice(sorted(REFERENCES)),
    default="v4",
    show_default=True,
    help="Version of arXiv:2602.15997 whose values are shown for comparison.",
)
@click.option(
    "--compare",
    "compare_with",
    type=Place(path_type=Path, file_okay=False),
    metavar="OTHER",
    help="Folder of a second sweep: claims of both in one table, curves in the same figures, and "
    "the settings that differ.",
)
@click.option(
    "--every-run",
    is_flag=True,
    help="Draw the figures of every run, not only of one seed per scale; takes seconds per run.",
)
@click.option(
    "--rate",
    default="best",
    show_default=True,
    help="Of a sweep at several learning rates, the runs that figures and tables show: a rate as "
    "in their names, for instance lr0.001, or best, of each scale the one with the lowest loss. "
    "The claims at each rate are always there.",
)
@click.option(
    "--success",
    type=float,
    help="Score from which a seed of a population counts as successful.  [default: 0.2 of whole "
    "answers, 0.5 of the word that tells rules apart]",
)
@click.option(
    "--population",
    "as_population",
    is_flag=True,
    help="Of several models measured by geomfast measure, the distribution of outcomes over seeds "
    "at every scale.",
)
@json_option("Print one JSON object instead of tables.")
def report(
    out: Path,
    html: Path | None,
    against: str,
    compare_with: Path | None,
    every_run: bool,
    rate: str,
    success: float | None,
    as_population: bool,
    as_json: bool,
) -> None:
    """Report on the records in OUT: which claims of the paper hold, tables and figures.

    Writes OUT/report.html (one page that opens offline), OUT/report.json, OUT/figures/ and
    OUT/tables/, and prints the claims and key numbers.  The last line is the path of the page.  A
    sweep that is still running can be reported on.

    For the records of a tracker the curves come first, and only claims that they decide are shown.

    For a folder of geomfast population the report shows, scale by scale, how the outcomes of its
    seeds are distributed. OUT may also be a CSV or Parquet file with the columns scale, seed and
    score, and any of task, length, parameters, loss and n, for instance evaluations of language
    models over seeds. The report is then written to a folder beside the file: with the name of the
    file, or followed by -report if that folder has other contents.

    For a folder of geomfast behaviour the report shows when each benchmark leaves chance at each
    size, in what order, and how suddenly; where geometry of the same checkpoints is in the folder,
    this is a second page, behaviour.html, which tells what came first.

    Only files that geomfast report wrote are overwritten. Duplicate or contradictory records are
    refused and listed.

    Exit codes: 0 done, 1 the report failed, 2 bad usage or no records in OUT, 130 aborted.
    """
    if compare_with is not None and compare_with.resolve() == out.resolve():
        raise click.BadParameter("is OUT itself", param_hint="--compare")
    if success is not None and not math.isfinite(success):
        raise click.BadParameter(f"{success} is not a score", param_hint="--success")
    # Only now, so that --help does not wait for the packages of the report.
    from geomfast.report import MissingExtra, build, claims, evaluations, population, rates, tables
    from geomfast.report.data import TRACKER

    waiting = Console(stderr=True)
    try:
        of_population = as_population or population.is_population(out)
    except (RecordsError, OSError) as error:
        raise _failure(error) from error
    if of_population:
        if compare_with is not None or every_run or rate != "best":
            raise click.UsageError(
                "--compare, --every-run and --rate are for sweeps, not for populations"
            )
        _report_population(out, html, success, as_json)
        return
    if success is not None:
        raise click.UsageError("--success is for populations, not for sweeps")
    with_behaviour = evaluations.has_behaviour(out)
    # Where measures were asked for and none is there yet, benchmarks are all there is.
    if with_behaviour and not part_files(out / "records"):
        if compare_with is not None or every_run or rate != "best":
            raise click.UsageError(
                "--compare, --every-run and --rate are for sweeps, not for benchmarks"
            )
        result = _behaviour(out, html, against)
        if as_json:
            click.echo(json.dumps(result, indent=2, allow_nan=False))
            return
        console = Console(file=sys.stdout, highlight=False)
        _show_behaviour(result, against, console)
        return
    try:
        with waiting.status("building the report ..."):
            result = build(
                out,
                html,
                against=against,
                compare_with=compare_with,
                every_run=every_run,
                processes=usable_cores(),
                rate=rate,
            )
    except FileNotFoundError as error:
        raise click.BadParameter(printable(str(error)), param_hint="OUT or --compare") from error
    except (MissingExtra, FileError, RecordsError, ValueError, OSError) as error:
        raise _failure(error) from error
    beside = _behaviour(out, None, against) if with_behaviour else None
    if as_json:
        more = {} if beside is None else {"behaviour": beside}
        click.echo(json.dumps(result | more, indent=2, allow_nan=False))
        return
    console = Console(file=sys.stdout, highlight=False)
    sweeps = {result["name"]: result["claims"]}
    if result["compare"] is not None:
        sweeps[result["compare"]["name"]] = result["compare"]["claims"]
    if result["compare"] is None and str(result["settings"].get("format")) == TRACKER:
        # Of a model of one's own the curves are what was asked for, and most claims are not its.
        tables.terminal([], result["lines"], console)
        claims.terminal(sweeps, against, console, undecided=False)
    else:
        claims.terminal(sweeps, against, console)
        click.echo()
        if result["rates"] is not None:
            rates.terminal(result["rates"], console)
        tables.terminal(result["cells"], result["lines"], console)
    click.echo()
    if beside is not None:
        _show_behaviour(beside, against, console)
    _page(result)


def _behaviour(out: Path, html: Path | None, against: str) -> dict[str, Any]:
    """The report on the benchmarks of a folder."""
    from geomfast.report import MissingExtra, evaluations

    try:
        with Console(stderr=True).status("building the report on benchmarks ..."):
            return evaluations.build(out, html, against=against)
    except (MissingExtra, FileError, RecordsError, PlanError, ValueError, OSError) as error:
        raise _failure(error) from error


def _show_behaviour(result: dict[str, Any], against: str, console: Console) -> None:
    """Print the report on benchmarks, and the path of its page."""
    from geomfast.report import claims, evaluations

    claims.terminal({result["name"]: result["claims"]}, against, console, undecided=False)
    evaluations.terminal(result, console)
    _page(result)


def _report_population(out: Path, html: Path | None, success: float | None, as_json: bool) -> None:
    from geomfast.report import MissingExtra, population

    try:
        with Console(stderr=True).status("building the report ..."):
            result = population.build(out, html, success=success)
    except (MissingExtra, FileError, RecordsError, ValueError, OSError) as error:
        raise _failure(error) from error
    if as_json:
        click.echo(json.dumps(result, indent=2, allow_nan=False))
        return
    population.terminal(result, Console(file=sys.stdout, highlight=False))
    _page(result)


def _page(result: dict[str, Any]) -> None:
    """The path of the page; not through rich, which would break a long one into lines."""
    click.echo(printable(result["paths"]["html"]))


def _failure(error: Exception) -> click.ClickException:
    """The error as a message: exit code 2 for a refused file or name, 1 for a failed report."""
    refused = isinstance(error, FileError) and not isinstance(error, RecordsError)
    kind = Refused if refused else click.ClickException
    return kind(printable(str(error)))
