"""The option to go without locks, where a file system has none."""

from __future__ import annotations

import os

import click

from geomfast.runs.locks import NO_LOCK


def _without(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        os.environ[NO_LOCK] = "1"  # for workers too, which inherit it


lock_option = click.option(
    "--no-lock",
    is_flag=True,
    expose_value=False,
    callback=_without,
    help="For file systems without locks: nothing else may write to OUT meanwhile.",
)
