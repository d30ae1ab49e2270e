"""The arithmetic of a plan for a GPU that is assumed: what is counted, at which rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_UNITS = (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def show_modelled(plan: Mapping[str, Any], console: Console) -> None:
    """Print what every part of every run takes, and the rates that were assumed.

    Args:
        plan: with ``parts`` of its runs and what was ``assumed``.
        console: to print on.
    """
    table = _table("part", "FLOP", "moved", "kernels", "GPU busy", "takes")
    for run in plan["runs"]:
        if not run.get("parts"):
            continue
        table.add_section()
        table.add_row(run["run"])
        parts = sorted(run["parts"].items(), key=lambda pair: -pair[1]["seconds"])
        for name, part in parts:
            counts = (part["operations"], part["moved"], part["kernels"])
            times = (f"{part[key]:.1f} s" for key in ("device", "seconds"))
            table.add_row(f"  {name}", *map(_short, counts), *times)
    console.print(table)
    title = plan["assumed"]["title"]
    console.print(f"{title}: {plan['uncertainty']}. Assumed:", highlight=False, soft_wrap=True)
    rates = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
    rates.add_column(no_wrap=True)
    rates.add_column(justify="right", no_wrap=True)
    rates.add_column()
    for name, figure in plan["assumed"]["figures"].items():
        value = f"{_short(figure['value'])}{figure['unit']}"
        rates.add_row(f"  {name.replace('_', ' ')}", value, figure["source"])
    console.print(rates)


def _table(first: str, *others: str) -> Table:
    """One space between columns, so that 80 are enough."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _short(value: float) -> str:
    """Three digits and the prefix of a unit."""
    for letter, size in _UNITS:
        if value >= size:
            return f"{value / size:.3g} {letter}"
    if value >= 0.1 or not value:
        return f"{value:.3g} "
    letter, size = ("m", 1e-3) if value >= 1e-3 else ("u", 1e-6) if value >= 1e-6 else ("n", 1e-9)
    return f"{value / size:.3g} {letter}"
