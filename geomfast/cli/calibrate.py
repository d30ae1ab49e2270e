"""``geomfast calibrate-llc``: finds a step size and a localization for the llc of a sweep."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from geomfast import machine
from geomfast.analysis import task_level
from geomfast.cli.choices import Finite, Ladder, OneTaskLevel, Place
from geomfast.cli.engine import check_device
from geomfast.cli.options import device_option, json_option, threads_option
from geomfast.files import write_atomically
from geomfast.records import MIXTURE
from geomfast.runs.errors import PlanError
from geomfast.sweep.plan import settings_of


@click.command("calibrate-llc")
@click.argument("source", type=Place(path_type=Path))
@click.option("--run", help="Run of the sweep.  [default: the first whose weights were saved]")
@click.option("--step", type=click.IntRange(0), help="Checkpoint.  [default: the last saved]")
@click.option(
    "--task",
    type=OneTaskLevel(),
    default="mixture",
    show_default=True,
    help="Task-level whose samples are used, or the mixture of all.",
)
@click.option(
    "--lr",
    type=Ladder((1, 2, 5)),
    default="1e-6..1e-4",
    show_default=True,
    help="Step sizes to try.",
)
@click.option(
    "--localization",
    type=Ladder((1, 3)),
    default="1000..30000",
    show_default=True,
    help="Localizations to try: strengths with which chains are pulled back to the weights.",
)
@click.option(
    "--nbeta",
    type=Finite(0, min_open=True),
    help="Inverse temperature times the number of samples.  [default: the sweep's]",
)
@click.option(
    "--chains",
    type=click.IntRange(1),
    help="Number of chains for each setting.  [default: the sweep's]",
)
@click.option(
    "--draws", type=click.IntRange(4), help="Draws of each chain.  [default: the sweep's]"
)
@click.option(
    "--burn-in",
    type=click.IntRange(0),
    help="Steps of each chain before its first draw.  [default: the sweep's]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Samples in each minibatch.  [default: the sweep's]",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the chains."
)
@device_option()
@threads_option()
@click.option(
    "--figure",
    type=Place("file", path_type=Path, dir_okay=False),
    help="File for the figure of all chains.  [default: in SOURCE/figures]",
)
@json_option("Print one JSON object instead of a table.")
def calibrate_llc(source: Path, figure: Path | None, as_json: bool, **options: Any) -> None:
    """Try settings of llc on a model of the sweep in SOURCE, and recommend one.

    Every step size (lr) is tried with every localization, except where the curvature shows that
    chains would be unstable. A setting is suitable if its chains converge (none diverges, the
    coefficient is not negative, finite steps add less than its error, R-hat and effective draws
    suffice, and the coefficient and |w - w0| have become flat), stay within half of |w0|, and agree
    with those of the neighbouring lr. Of the suitable settings the one with the weakest
    localization, and then the largest lr, is recommended.

    Use one setting for all checkpoints: pass it to geomfast sweep as --llc-lr and
    --llc-localization. Ctrl-C aborts; nothing is saved before the end.

    Exit codes: 0 done, even if no setting is suitable; 1 the sampling failed; 2 bad usage, or no
    such weights in SOURCE; 130 aborted.
    """
    # Only now, so that --help does not wait for torch.
    import torch

    from geomfast.sweep.saved_model import load_model
    from geomfast.testbed.training.checkpoints import CheckpointError

    try:
        saved = load_model(source, options["run"], options["step"])
    except PlanError as error:
        raise click.UsageError(str(error)) from error
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    check_device(options["device"])
    torch.set_num_threads(options["threads"] or machine.usable_cores())
    probe = _probe(saved, options["task"], options["device"])
    try:
        found = _calibrated(saved, probe, options)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    place = figure or source / "figures" / f"llc-calibration-{_slug(found)}.png"
    found["figure"] = _drawn(found, place, required=figure is not None)
    for trial in found["trials"]:
        del trial["trace"]
    if as_json:
        click.echo(json.dumps(_plain(found), indent=2, allow_nan=False))
    else:
        _show(found, Console(highlight=False))


def _probe(saved: Any, task: tuple[str, int], device: str) -> Any:
    import torch

    from geomfast.sweep.samples import level_samples, mixture

    samples = level_samples(saved.spec, saved.settings, torch.device(device))
    if task == MIXTURE:
        return mixture(samples)
    for probe in samples:
        if (probe.level.task, probe.level.level) == task:
            return probe
    there = ", ".join(probe.level.name for probe in samples)
    raise click.UsageError(f"--task {task_level(*task)}: {saved.spec.run} has only {there}")


def _calibrated(saved: Any, probe: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The calibration as plain values, with the traces of every trial."""
    from geomfast.estimators.batches import batches_of
    from geomfast.estimators.sampling.calibrate import calibrate
    from geomfast.estimators.sampling.steps import top_curvature

    model = saved.model.to(options["device"])
    samples = probe.named["n"]
    sweeps = asdict(settings_of(saved.settings, "llc"))
    names = ("nbeta", "chains", "draws", "burn_in", "batch_size")
    settings = {key: sweeps[key] if options[key] is None else options[key] for key in names}
    settings |= {"batch_size": min(settings["batch_size"], samples), "seed": options["seed"]}
    lrs, localizations = options["lr"], options["localization"]
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
        curvature = top_curvature(model, probe.loss, batches_of(probe.batch), None)
        shown.update(bar, description="sampling")
        found = calibrate(
            model,
            probe.loss,
            probe.batch,
            lrs=lrs,
            localizations=localizations,
            curvature=curvature,
            progress=lambda trial: shown.advance(bar),
            **settings,
        )
    best = found.recommended
    return {
        "run": saved.spec.run,
        "step": saved.step,
        "task": probe.named["task"],
        "level": probe.named["level"],
        "n": samples,
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
    return f"{found['run']}-{found['step']}-{task_level(found['task'], found['level'])}"


def _drawn(found: dict[str, Any], place: Path, required: bool) -> str | None:
    """Draws the picture; returns where it is, None where the packages for it are not there."""
    from geomfast.report.calibration import calibration_figure
    from geomfast.report.extras import MissingExtra

    try:
        drawn = calibration_figure(found)
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
    title = f"{found['run']}, step {found['step']}, {task_level(found['task'], found['level'])}"
    # No more than one space between columns, so that 80 are enough.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, title_justify="left", title=title)
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
