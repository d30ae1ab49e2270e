"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from geomfast.cli.choices import MOST_THREADS, CadenceOf, Finite
from geomfast.runs.executors.engine import ENGINES
from geomfast.runs.locks import NO_LOCK
from geomfast.runs.states import STATE_EVERY
from geomfast.testbed.training.stacking import STACK

Command = TypeVar("Command", bound=Callable[..., Any])


def together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several options as one decorator, in this order in the help."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def device_option(what: str = "cpu, cuda, cuda:1, ...") -> Callable[[Command], Command]:
    """Device that torch computes on."""
    return click.option(
        "--device",
        default="cpu",
        show_default=True,
        help=f"Device: {what}",
        shell_complete=lambda ctx, param, start: [
            n for n in ("cpu", "cuda") if n.startswith(start)
        ],
    )


def threads_option(default: str = "all") -> Callable[[Command], Command]:
    """Number of CPU threads that torch computes with."""
    kind = click.IntRange(1, MOST_THREADS)
    return click.option(
        "--threads", type=kind, help=f"CPU threads of each worker.  [default: {default}]"
    )


def json_option(
    what: str = "Print the outcome, or the plan, as JSON.",
) -> Callable[[Command], Command]:
    """Output for programs, alone on stdout."""
    return click.option("--json", "as_json", is_flag=True, help=what)


#: Where work is done, and how much of it at once; see :func:`geomfast.cli.engine.chosen_engine`.
engine_options = together(
    device_option("cpu, cuda (every GPU), cuda:1, ..."),
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default=ENGINES[0],
        show_default=True,
        help="local: processes on this machine; ray: workers of a Ray cluster.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Number of worker processes.  [default: 1; on GPUs as many as fit into free memory, "
        "or one per GPU for measure; on a running cluster as many as it has room for]",
    ),
    threads_option("all, shared by the workers; 1 on a running cluster"),
    click.option(
        "--address",
        metavar="HOST:PORT|auto",
        envvar="RAY_ADDRESS",
        show_envvar=True,
        help="Address of a running Ray cluster.  [default: start one on this machine]",
    ),
    click.option(
        "--gpus-per-run",
        type=Finite(0, max=1, min_open=True),
        help="Fraction of a GPU for each worker on Ray: 0.25 for four on each GPU.  [default: 1]",
    ),
)


def cadence_option(measures: Iterable[str], default: str) -> Callable[[Command], Command]:
    """At how many checkpoints a measure is taken; see :func:`asked_cadence`."""
    measures = tuple(measures)
    example = "llc" if "llc" in measures else measures[0]
    return click.option(
        "--cadence",
        type=CadenceOf(measures),
        help="Number of checkpoints at which to take an expensive measure, evenly spaced: "
        f"{example}=8, or {example}=all.  [default: {default}]",
    )


def asked_cadence(
    asked: Mapping[str, int | None] | None,
    measures: Iterable[str],
    default: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """At how many checkpoints each measure is taken; at all where it is not named.

    Args:
        asked: value of the option.
        measures: that are taken.
        default: where nothing else is asked for.

    Raises:
        click.UsageError: a cadence of what is not measured.
    """
    names = tuple(measures)
    for name in asked or {}:
        if name not in names:
            raise click.UsageError(f"--cadence {name}: it is not among --measures")
    counts = {**(default or {}), **(asked or {})}
    return {name: count for name in names if (count := counts.get(name)) is not None}


def llc_options(default: Mapping[str, Any], otherwise: str = "") -> Callable[[Command], Command]:
    """Options for sampling the local learning coefficient.

    Args:
        default: defaults of lr, localization, chains and draws, and of burn_in
            where it can be asked for.
        otherwise: text for cases with other defaults.
    """

    def option(name: str, kind: click.ParamType, what: str) -> Callable[[Any], Any]:
        own = default[name]
        usual = f"[default: {own if isinstance(own, str) else format(own, 'g')}{otherwise}]"
        return click.option(f"--llc-{name.replace('_', '-')}", type=kind, help=f"{what}.  {usual}")

    return together(
        option(
            "lr",
            Finite(0, min_open=True, word="auto"),
            "Step size of the Langevin chains of llc; auto: one over the largest curvature",
        ),
        option(
            "localization",
            Finite(0, word="norm"),
            "Strength with which the chains of llc are pulled back to the weights; norm: free "
            "chains stay within half of the weights' norm",
        ),
        option("chains", click.IntRange(1), "Number of chains of llc"),
        option("draws", click.IntRange(4), "Draws of each chain of llc"),
        *(
            [
                option(
                    "burn_in", click.IntRange(0), "Steps of each chain of llc before its first draw"
                )
            ]
            if "burn_in" in default
            else []
        ),
    )


def stack_option(members: str) -> Callable[[Command], Command]:
    """Option that trains the seeds of a scale as one program."""
    return click.option(
        "--stack",
        type=click.Choice(STACK),
        default=STACK[0],
        show_default=True,
        help=f"Train {members} as one program. auto: if that is faster; always; never.",
    )


#: Of every command that trains; no number depends on it, so that a folder may be resumed with
#: another one.
state_option = click.option(
    "--state-every",
    type=Finite(0),
    metavar="SECONDS",
    default=STATE_EVERY,
    show_default=True,
    help="Minimum time between saved states, from which a killed run resumes; 0: save at every "
    "checkpoint.",
)


def _without(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        os.environ[NO_LOCK] = "1"  # for workers too, which inherit it


lock_option = click.option(
    "--no-lock",
    is_flag=True,
    expose_value=False,
    callback=_without,
    help="Do not lock OUT, for file systems without locks; nothing else may write to it meanwhile.",
)
dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Write nothing; print what is left to do, with an estimate of time, memory and disk.",
)
