"""The ``geomfast`` command."""

from __future__ import annotations

import os
from typing import Any

# torch's idle threads keep their cores busy for milliseconds, while our own kernels wait for them.
# Its OpenMP reads this when it is loaded, so it stands before every import.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import importlib

import click

import geomfast
from geomfast.cli.refused import Refused
from geomfast.files import FileError, printable

#: The module of each command, and what the list of commands says of it: a list that had to import
#: them all would wait seconds for statistics and figures.
COMMANDS = {
    "sweep": ("sweep", "Train and measure a grid of runs; resumes where it was left."),
    "population": (
        "population",
        "Hundreds of seeds of every scale, trained as one; resumes where it was left.",
    ),
    "measure": (
        "measure",
        "Measure checkpoints that are there already; resumes where it was left.",
    ),
    "measures": ("measures", "What can be measured, what it needs, costs, and its settings."),
    "report": ("report", "Tables, figures and one HTML page from the records of a sweep."),
    "calibrate-llc": ("calibrate", "Step size and localization for a sweep's llc."),
    "doctor": ("doctor", "Devices, compilers, backends, and a self-test of every kernel."),
}
#: Options by the name they had before.
RENAMED = {"--gpus-per-cell": "--gpus-per-run"}


class Explained(click.Group):
    """A group whose commands say in one line which file or name they do not use, and why."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; options under their old names are said to be renamed."""
        for index, arg in enumerate(args):
            name, equals, value = arg.partition("=")
            if name in RENAMED:
                click.echo(f"{name} is deprecated; use {RENAMED[name]}", err=True)
                args[index] = f"{RENAMED[name]}{equals}{value}"
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name, which is imported here."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"geomfast.cli.{COMMANDS[cmd_name][0]}")
        return getattr(module, cmd_name.replace("-", "_"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """As of every group."""
        try:
            return super().invoke(ctx)
        except FileError as error:
            raise Refused(printable(str(error))) from error
        except click.ClickException as error:
            # It may quote a name from a file, which the terminal is not to obey.
            error.message = printable(error.message)  # pyright: ignore[reportAttributeAccessIssue]
            raise
        except UnicodeEncodeError as error:
            raise click.ClickException(f"{error.object!a:.80} is not text") from error
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f" ({error.filename!a})" if error.filename is not None else ""
            raise click.ClickException(f"{error.strerror or error}{where}") from error


@click.group(
    cls=Explained,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(geomfast.__version__, prog_name="geomfast")
def main() -> None:
    """Measure the geometry of neural networks while capabilities emerge.

    \b
    geomfast sweep out/demo --preset smoke    train and measure, in minutes on a laptop
    geomfast report out/demo                  tables, figures and one HTML page
    """


if __name__ == "__main__":
    main()
