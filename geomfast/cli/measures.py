"""``geomfast measures``: everything that can be measured, and what it takes."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from geomfast.files import printable
from geomfast.measures import MeasureSpec, Need, catalog

#: What a measure takes, beside the work that it shares with the others of its need.
_COST = {
    Need.ACTIVATIONS: "a forward pass, shared",
    Need.ANSWERS: "a forward pass, shared; a ridge regression for each layer",
    Need.GRADIENTS: "a backward pass with a Gram matrix, shared",
    Need.CURVATURE: "products with the Hessian, two passes each",
    Need.CHAINS: "a forward and backward pass of a minibatch for each draw",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def measures(as_json: bool) -> None:
    """List everything that can be measured: geomfast's own, and of other installed packages.

    A package adds measures by the entry point geomfast.measures. One that cannot be loaded is said
    with its traceback, and leaves the others as they are.

    Sweeps take all of these, populations those of activations; series of language models and
    trackers all but those that need answers of the samples.
    """
    found = catalog()
    if as_json:
        listed = [_described(spec) for spec in found.specs.values()]
        click.echo(json.dumps({"measures": listed, "failures": dict(found.failures)}, indent=2))
        return
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("measure", "what", "needs", "costs", "settings"):
        table.add_column(heading, no_wrap=heading == "measure")
    for spec in found.specs.values():
        told = _described(spec)
        settings = ", ".join(f"{name}={value}" for name, value in told["settings"].items())
        what = spec.summary + (f" [{spec.plugin}]" if spec.plugin else "")
        cells = (spec.name, what, told["needs"], told["costs"], settings)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)
    for said, why in found.failures.items():
        console.print(Text(printable(f"{said} could not be loaded:"), style="red"))
        click.echo(why)


def _described(spec: MeasureSpec) -> dict[str, Any]:
    products = spec.products(spec.settings()) if spec.products else None
    return {
        "name": spec.name,
        "summary": spec.summary,
        "unit": spec.unit,
        "needs": str(spec.need),
        "costs": _COST[spec.need] + (f"; {products} of them" if products else ""),
        "per_layer": spec.per_layer,
        "settings": {one.name: spec.defaults[one.name] for one in fields(spec.settings)},
        "records": [column.name for column in spec.columns],
        "package": spec.plugin or "geomfast",
    }
