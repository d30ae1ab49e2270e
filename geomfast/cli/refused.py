"""The error for input that the command line refuses as bad usage."""

from __future__ import annotations

import click


class Refused(click.ClickException):
    """A refused file, folder or name: bad usage that no single option causes."""

    exit_code = 2
