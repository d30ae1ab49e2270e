"""``geomfast measures``: lists the measures, with what each needs, costs, and its settings."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from geomfast.cli.outcome import say
from geomfast.files import printable
from geomfast.measures import MeasureSpec, Need, catalog

_HEADINGS = ("measure", "what", "needs", "costs", "settings")
#: Columns of a terminal from which on the table is readable; below, each measure has its lines.
_TABLE_WIDTH = 120
#: Cost of a measure by its need; shared work counts once for all measures of that need.
_COST = {
    Need.ACTIVATIONS: "a forward pass, shared",
    Need.SPECTRA: "a forward pass and a spectrum of each layer, shared",
    Need.LAYERS: "a forward pass, shared; a kernel matrix for each layer",
    Need.ANSWERS: "a forward pass, shared; a ridge regression for each layer",
    Need.CLASSES: "a forward pass, shared; means of the classes at each layer",
    Need.GRADIENTS: "a backward pass with a Gram matrix, shared",
    Need.CURVATURE: "products with the Hessian, two passes each",
    Need.CHAINS: "a forward and backward pass of a minibatch for each draw",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def measures(as_json: bool) -> None:
    """List everything that can be measured: geomfast's own, and of other installed packages.

    A package adds measures by the entry point geomfast.measures. A measure that cannot be loaded is
    listed with its traceback; the others still work.

    Sweeps support all measures, populations those of activations; series of language models and
    trackers all except those that need answers for the samples.
    """
    found = catalog()
    if as_json:
        listed = [_described(spec) for spec in found.specs.values()]
        click.echo(json.dumps({"measures": listed, "failures": dict(found.failures)}, indent=2))
        return
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in _HEADINGS:
        table.add_column(heading, no_wrap=heading == "measure")
    for spec in found.specs.values():
        told = _described(spec)
        settings = ", ".join(f"{name}={value}" for name, value in told["settings"].items())
        what = spec.summary + (f" [{spec.plugin}]" if spec.plugin else "")
        texts = (spec.name, what, told["needs"], told["costs"], settings)
        texts = [printable(text) for text in texts]
        table.add_row(*map(Text, texts))
        if console.width < _TABLE_WIDTH:
            say(console, texts[0])
            for heading, text in zip(_HEADINGS[1:], texts[1:], strict=True):
                line = Text(f"{heading + ':':10}{text}")
                console.print(Padding(line, (0, 0, 0, 2)), highlight=False)
    if console.width >= _TABLE_WIDTH:
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
        "answers": spec.labelled,
        "costs": _COST[spec.need] + (f"; {products} of them" if products else ""),
        "per_layer": spec.per_layer,
        "settings": {one.name: spec.defaults[one.name] for one in fields(spec.settings)},
        "records": [column.name for column in spec.columns],
        "package": spec.plugin or "geomfast",
    }
