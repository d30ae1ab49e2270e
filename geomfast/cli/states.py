"""The option that says how often a run's state is written."""

from __future__ import annotations

import click

from geomfast.cli.choices import Finite
from geomfast.runs.states import STATE_EVERY

#: Of every command that trains; no number depends on it, so that a folder may be gone on with by
#: another one.
state_option = click.option(
    "--state-every",
    type=Finite(0),
    metavar="SECONDS",
    default=STATE_EVERY,
    show_default=True,
    help="Least time between the states a kill goes back to; 0 for one at every checkpoint.",
)
