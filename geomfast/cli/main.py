"""The ``geomfast`` command."""

from __future__ import annotations

import os
from typing import Any

# torch's idle threads keep their cores busy for milliseconds, while our own kernels wait for them.
# Its OpenMP reads this when it is loaded, so it stands before every import.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import importlib

import click
from click.shell_completion import CompletionItem

import geomfast
from geomfast.cli.refused import Refused
from geomfast.files import FileError, printable

#: Module and one-line help of each command, so that the list of commands need not import them all,
#: which takes seconds.
COMMANDS = {
    "sweep": ("sweep", "Train and measure a grid of runs; run again to resume."),
    "population": (
        "population",
        "Train hundreds of seeds of every scale as one program; run again to resume.",
    ),
    "measure": (
        "measure",
        "Measure existing checkpoints of any model; run again to resume.",
    ),
    "behaviour": (
        "behaviour",
        "Read results of the lm-evaluation-harness, to join geometry or alone.",
    ),
    "measures": ("measures", "List the measures: what each needs, costs, and its settings."),
    "report": ("report", "Make tables, figures and one HTML page from records."),
    "calibrate-llc": ("calibrate", "Find settings for the llc of a model, of any source."),
    "doctor": ("doctor", "Check devices, compilers and backends, and test every kernel."),
}
#: Options by the name they had before.
RENAMED = {"--gpus-per-cell": "--gpus-per-run"}


class Explained(click.Group):
    """A group of commands that reports refused files and names in one line, with the reason."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; an option under its old name works, with a note of the new one."""
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

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands for a shell, without importing any, or the group's own options."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=COMMANDS[name][1])
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn errors of files and text into messages with exit code 1 or 2."""
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
        except KeyboardInterrupt:
            from geomfast.cli.interrupts import ABORTED, STOPPED  # brings rich

            click.echo(ABORTED, err=True)
            ctx.exit(STOPPED)
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
