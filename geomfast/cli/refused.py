"""What the command line refuses as bad usage."""

from __future__ import annotations

import click


class Refused(click.ClickException):
    """A file, folder or name that is not used: bad usage, of which no option is to blame."""

    exit_code = 2
