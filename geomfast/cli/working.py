"""Shared by commands that do work: an interruptible run, and a description of the call."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from geomfast import machine
from geomfast.cli.interrupts import asked_to_stop
from geomfast.runs.errors import PlanError
from geomfast.runs.executors.engine import Engine

if TYPE_CHECKING:  # these bring torch with them
    from geomfast.runs.execute import Display
    from geomfast.runs.executors.events import Event, Work


@contextmanager
def refusals() -> Iterator[None]:
    """Within the context, a :class:`PlanError` becomes a usage error.

    Raises:
        click.UsageError: says what to change.
    """
    try:
        yield
    except PlanError as error:
        raise click.UsageError(str(error)) from error


def run_work(
    out: Path,
    work: Sequence[Work],
    engine: Engine,
    display: Display,
    console: Console,
    **how: Any,
) -> dict[str, Event]:
    """Do work until it is done or the user asks to stop; see :func:`geomfast.runs.execute.execute`.

    Returns:
        The last event of everything that was started, by its name.
    """
    from geomfast.runs.execute import execute

    with asked_to_stop(console) as stopping:
        waiting = console.status(f"waiting for {engine}")
        return execute(out, work, engine, stopping, display, waiting=waiting, **how)


def described_call(**more: str) -> dict[str, Any]:
    """A description of this call for ``settings.json``; no recorded value depends on it.

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
