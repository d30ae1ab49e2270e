"""The ``geomfast`` command."""

from __future__ import annotations

import os
from typing import Any

# torch's idle threads keep their cores busy for milliseconds, while our own kernels wait for them.
# Its OpenMP reads this when it is loaded, so it stands before every import.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import click

import geomfast
from geomfast.cli.calibrate import calibrate_llc
from geomfast.cli.choices import Refused
from geomfast.cli.doctor import doctor
from geomfast.cli.measure import measure
from geomfast.cli.measures import measures
from geomfast.cli.population import population
from geomfast.cli.report import report
from geomfast.cli.sweep import sweep
from geomfast.files import FileError, printable


class Explained(click.Group):
    """A group whose commands say in one line which file or name they do not use, and why."""

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


main.add_command(sweep)
main.add_command(population)
main.add_command(measure)
main.add_command(measures)
main.add_command(report)
main.add_command(calibrate_llc)
main.add_command(doctor)

if __name__ == "__main__":
    main()
