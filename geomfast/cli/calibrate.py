"""``geomfast calibrate-llc``: finds settings for the llc of a model, of any source."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from geomfast import machine
from geomfast.cli.choices import Finite, Ladder, OneTaskLevel, Place
from geomfast.cli.engine import check_device
from geomfast.cli.options import device_option, json_option, threads_option
from geomfast.estimators.sampling.rules import usual_nbeta
from geomfast.files import write_atomically

if TYPE_CHECKING:  # which brings torch with it
    from geomfast.cli.calibration_source import Subject


_GRID = {"lr": "1e-6..1e-4", "localization": "1000..30000"}


@click.command("calibrate-llc")
@click.argument("source", type=Place())
@click.option("--run", help="Run of a sweep.  [default: the first whose weights were saved]")
@click.option("--step", type=click.IntRange(0), help="Checkpoint.  [default: the last saved]")
@click.option(
    "--task",
    type=OneTaskLevel(),
    help="Task-level of a sweep whose samples are used, or the mixture of all.  [default: mixture]",
)
@click.option("--revision", help="Revision of a model on the hub.  [default: main]")
@click.option(
    "--probes",
    help="Probe set of a language model, or a JSONL file.  [default: the first built-in set]",
)
@click.option(
    "--lr",
    type=Ladder((1, 2, 5)),
    help="Step sizes of a grid to try.  [default: 1e-6..1e-4, where --localization is given]",
)
@click.option(
    "--localization",
    type=Ladder((1, 3)),
    help="Localizations of a grid to try: strengths with which chains are pulled back to the "
    "weights.  [default: 1000..30000, where --lr is given]",
)
@click.option(
    "--error",
    type=Finite(0, max=1, min_open=True, max_open=True),
    help="Standard error of each coefficient without a grid, as a share of it.  [default: 0.02]",
)
@click.option(
    "--max-seconds",
    type=Finite(0, min_open=True),
    help="Seconds after which no weaker localization is tried without a grid.  [default: 300]",
)
@click.option(
    "--nbeta",
    type=Finite(0, min_open=True),
    help="Inverse temperature times the number of samples.  [default: the sweep's, or n / log n]",
)
@click.option(
    "--chains",
    type=click.IntRange(1),
    help="Number of chains for each setting.  [default: of a grid the sweep's; without one 4, or "
    "up to 128 of a small model]",
)
@click.option(
    "--draws",
    type=click.IntRange(4),
    help="Draws of each chain of a grid.  [default: the sweep's, or 100]",
)
@click.option(
    "--burn-in",
    type=click.IntRange(0),
    help="Steps of each chain of a grid before its first draw.  [default: the sweep's, or 25]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Samples in each minibatch.  [default: the sweep's, or 32]",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the chains."
)
@device_option()
@threads_option()
@click.option(
    "--figure",
    type=Place("file", path_type=Path, dir_okay=False),
    help="File for the figure.  [default: in the sweep's folder figures; otherwise none]",
)
@json_option("Print one JSON object instead of a table.")
def calibrate_llc(source: str, figure: Path | None, as_json: bool, **options: Any) -> None:
    """Find settings of llc for the model of SOURCE, and the evidence for them.

    SOURCE is the OUT folder of a geomfast sweep; a folder of Hugging Face checkpoints, or a single
    one; the id of a model on the Hugging Face hub; or module:model:loss:data, names in a module
    that can be imported: a torch module, loss(model, batch) with one value per sample, and a batch
    or an iterable of batches (of model and data also functions without arguments that return them).

    Without --lr and --localization the localization is lowered from the largest curvature on, each
    time with the largest step size that changes nothing, until the coefficient without localization
    is known, or what bounds it.

    With either, every step size (lr) is tried with every localization, except where the curvature
    shows that chains would be unstable. A setting is suitable if its chains converge (none
    diverges, the coefficient is not negative, finite steps add less than its error, R-hat and
    effective draws suffice, and the coefficient and |w - w0| have become flat), stay within half of
    |w0|, and agree with those of the neighbouring lr. Of the suitable settings the one with the
    weakest localization, and then the largest lr, is recommended.

    Use one setting for all checkpoints. Ctrl-C aborts; nothing is saved before the end.

    Exit codes: 0 done, even if no setting is suitable; 1 the sampling failed, or the weights are
    damaged or out of reach; 2 bad usage, or no such weights in SOURCE; 130 aborted.
    """
    grid = options["lr"] is not None or options["localization"] is not None
    for name in ("error", "max_seconds") if grid else ("draws", "burn_in"):
        if options[name] is not None:
            with_or_without = "does not go with" if grid else "needs a grid:"
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} {with_or_without} --lr or --localization")
    # Only now, so that --help does not wait for torch.
    import torch

    from geomfast.cli.calibration_source import subject_of

    check_device(options["device"])
    subject = subject_of(source, options)
    torch.set_num_threads(options["threads"] or machine.usable_cores())
    try:
        found = (_grid if grid else _ladder)(subject, options)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    place = figure
    if place is None and subject.figures:
        place = subject.figures / f"llc-{'calibration' if grid else 'ladder'}-{_slug(found)}.png"
    found["figure"] = place and _drawn(found, place, required=figure is not None)
    for trial in found.get("trials", ()):
        del trial["trace"]
    if as_json:
        click.echo(json.dumps(_plain(found), indent=2, allow_nan=False))
    else:
        (_show if grid else _show_ladder)(found, Console(highlight=False))


def _common(subject: Subject, options: dict[str, Any]) -> dict[str, Any]:
    """Temperature, minibatches and seed."""
    own = {name: options[name] or subject.llc[name] for name in ("nbeta", "batch_size")}
    if own["nbeta"] is None:
        own["nbeta"] = usual_nbeta(max(subject.samples, 2))
    return own | {
        "batch_size": min(own["batch_size"], subject.samples),
        "seed": options["seed"],
    }


def _ladder(subject: Subject, options: dict[str, Any]) -> dict[str, Any]:
    """Settings by a ladder of localizations, as plain values."""
    from geomfast.estimators.sampling.automatic import calibrate_llc

    bounds: dict[str, Any] = {
        "error": options["error"] or 0.02,
        "max_seconds": options["max_seconds"] or 300.0,
    }
    settings = _common(subject, options)
    with Console(stderr=True).status("curvature") as status:
        found = calibrate_llc(
            subject.model,
            subject.loss_fn,
            subject.data,
            chains=options["chains"],
            progress=lambda what: status.update(f"sampling, {what}"),
            **settings,
            **bounds,
        )
    names = ("mean", "stderr", "localization_effect", "localization_effect_stderr", "rhat", "ess")
    rungs = [
        {"localization": rung.localization, "lr": rung.lr, "momentum": rung.momentum}
        | {name: getattr(rung.estimate, name) for name in names}
        | {"verdict": rung.estimate.verdict}
        for rung in found.rungs
    ]
    return {
        "name": subject.name,
        **subject.told,
        "n": subject.samples,
        **settings,
        **bounds,
        "chains": found.chains,
        "curvature": found.curvature,
        "rungs": rungs,
        "coefficient": found.coefficient,
        "stderr": found.stderr,
        "recommended": {
            name: getattr(found, name) for name in ("lr", "momentum", "localization", "burn_in")
        },
        "reason": found.conclusion,
        "table": str(found),
    }


def _grid(subject: Subject, options: dict[str, Any]) -> dict[str, Any]:
    """The calibration by a grid as plain values, with the traces of every trial."""
    from geomfast.estimators.batches import batches_of
    from geomfast.estimators.sampling.calibrate import calibrate
    from geomfast.estimators.sampling.steps import top_curvature

    settings = _common(subject, options)
    for name in ("chains", "draws", "burn_in"):
        settings[name] = subject.llc[name] if options[name] is None else options[name]
    lrs, localizations = (
        options[name] or Ladder((1, 2, 5) if name == "lr" else (1, 3)).parse(values)
        for name, values in _GRID.items()
    )
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} settings, elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with shown:
        bar = shown.add_task("curvature", total=len(lrs) * len(localizations))
        curvature = top_curvature(subject.model, subject.loss_fn, batches_of(subject.data), None)
        shown.update(bar, description="sampling")
        found = calibrate(
            subject.model,
            subject.loss_fn,
            subject.data,
            lrs=lrs,
            localizations=localizations,
            curvature=curvature,
            progress=lambda trial: shown.advance(bar),
            **settings,
        )
    best = found.recommended
    return {
        "name": subject.name,
        **subject.told,
        "n": subject.samples,
        **settings,
        "curvature": curvature,
        "trials": [_values(trial, trial is best) for trial in found.trials],
        "recommended": {"lr": best.lr, "localization": best.localization} if best else None,
        "reason": found.reason,
    }


def _values(trial: Any, recommended: bool) -> dict[str, Any]:
    names = ("mean", "stderr", "step_bias", "acceptance", "rhat", "ess")
    found = trial.estimate
    return {
        "lr": trial.lr,
        "localization": trial.localization,
        **{name: getattr(found, name) if found else math.nan for name in names},
        "diverged": int(found.diverged.sum()) if found else None,
        "drift": trial.drift,
        "reach": trial.reach,
        "converged": trial.converged,
        "agrees": trial.agrees,
        "verdict": trial.verdict,
        "recommended": recommended,
        "trace": (found.nbeta * found.excess_trace).numpy() if found else None,
    }


def _slug(found: dict[str, Any]) -> str:
    return re.sub(r"[^\w.-]+", "-", found["name"].replace(", step ", "-").replace(", ", "-"))


def _drawn(found: dict[str, Any], place: Path, required: bool) -> str | None:
    """Draws the picture; returns where it is, None where the packages for it are not there."""
    from geomfast.report.calibration import calibration_figure, ladder_figure
    from geomfast.report.extras import MissingExtra

    try:
        drawn = (calibration_figure if "trials" in found else ladder_figure)(found)
    except MissingExtra as error:
        if required:
            raise click.ClickException(str(error)) from error
        click.echo(f"no picture: {error}", err=True)
        return None
    sink = io.BytesIO()
    drawn.savefig(sink, format="png", dpi=100)
    try:
        write_atomically(place, sink.getvalue())
    except OSError as error:
        raise click.ClickException(f"cannot write {place}: {error.strerror}") from error
    return str(place)


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    from geomfast.report.tables import plain

    return plain(found)


def _show(found: dict[str, Any], console: Console) -> None:
    # No more than one space between columns, so that 80 are enough.
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=0, title_justify="left", title=found["name"]
    )
    for name in ("pull", "lr", "llc", "bias", "acc", "R-hat", "ESS", "drift", "reach"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(" verdict", no_wrap=True)
    for index, trial in enumerate(found["trials"]):
        first = index == 0 or trial["localization"] != found["trials"][index - 1]["localization"]
        if first and index:
            table.add_section()
        table.add_row(
            f"{trial['localization']:g}" if first else "",
            f"{trial['lr']:.0e}".replace("e-0", "e-"),
            *_numbers(trial),
            f" {_words(trial)}",
            style="bold" if trial["recommended"] else None,
        )
    console.print(table)
    console.print(
        "[dim]pull: localization; bias: of finite steps on a quadratic; acc: acceptance of a "
        "Metropolis test; drift, in llc: last quarter of the trace less the one before; reach: of "
        "|w0|; localized: by a localization too strong; curvature "
        f"{found['curvature']:.3g}, nbeta {found['nbeta']:.4g}[/dim]"
    )
    best = found["recommended"]
    if best:
        flags = f"--llc-lr {best['lr']:g} --llc-localization {best['localization']:g}"
        console.print(f"\n[bold]Recommended: {flags}[/bold]")
    else:
        console.print("\n[bold]No setting is recommended.[/bold]")
    console.print(found["reason"])
    if found["figure"]:
        click.echo(found["figure"])


def _show_ladder(found: dict[str, Any], console: Console) -> None:
    console.print(found["name"])
    *rows, _ = found["table"].splitlines()
    console.print("\n".join(rows), style=None, soft_wrap=True)
    best = found["recommended"]
    console.print(f"[dim]curvature {found['curvature']:.3g}, nbeta {found['nbeta']:.4g}[/dim]")
    console.print(f"\n[bold]Recommended: --llc-localization {best['localization']:.4g}[/bold]")
    console.print(
        f"(its lr here is {best['lr']:.3g} with momentum {best['momentum']:.2f}; sweeps and "
        "geomfast measure find it at each checkpoint)"
    )
    console.print(found["reason"])
    if found["figure"]:
        click.echo(found["figure"])


def _numbers(trial: dict[str, Any]) -> list[str]:
    if math.isnan(trial["mean"]):
        return [""] * 7
    return [
        f"{trial['mean']:.3g} ± {trial['stderr']:.1g}",
        f"{trial['step_bias']:.2g}",
        f"{trial['acceptance']:.2f}",
        f"{trial['rhat']:.2f}",
        f"{trial['ess']:.0f}",
        f"{trial['drift']:+.1g}",
        f"{trial['reach']:.0%}",
    ]


def _words(trial: dict[str, Any]) -> str:
    words = str(trial["verdict"]).partition(":")[0]
    words = "localized" if "localization" in words else words  # 80 columns
    if trial["converged"] and trial["agrees"] is not None:
        words += ", same" if trial["agrees"] else ", differs"
    return words
