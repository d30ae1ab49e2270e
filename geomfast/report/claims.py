"""Claims as text: for the page, the terminal, CSV and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from geomfast.analysis.claim import DOES_NOT, HOLDS, NOT_ENOUGH, PARTLY, VERDICTS, Claim
from geomfast.analysis.paper import REFERENCES
from geomfast.files import printable, write_atomically
from geomfast.report.names import in_terminal
from geomfast.report.tables import Write, number, plain, step, write_csv

#: A sign for every verdict, beside its name, so that none depends on colour alone.
MARKS = {HOLDS: "✓", PARTLY: "◐", DOES_NOT: "✗", NOT_ENOUGH: "?"}
#: Texts of a missing value, and of a version of the paper that states none.
NOTHING, SILENT = "–", "says nothing"

_STYLES = {HOLDS: "bold blue", PARTLY: "bold yellow", DOES_NOT: "bold red", NOT_ENOUGH: "dim"}


def quantity(value: float | None, unit: str) -> str:
    """A number in the unit of a claim: shares as percentages, steps in full."""
    if value is None or math.isnan(value):
        return NOTHING
    if unit == "share":
        return f"{100 * value:.0f}%"
    return step(value) if unit == "steps" else number(value)


def interval_text(low: float | None, high: float | None, unit: str) -> str:
    """A 95% interval in the unit of a claim; empty where there is none."""
    ends = [quantity(end, unit) for end in (low, high)]
    return "" if NOTHING in ends else " to ".join(ends)


def counts(n: Mapping[str, int]) -> str:
    """Counts as text: *1 scale, 24 task-levels*; names are given in the plural."""
    return ", ".join(
        f"{count:,} {name.removesuffix('s') if count == 1 else name}" for name, count in n.items()
    )


def paper_text(value: Any) -> str:
    """A value of the paper as text; it may be a number, words, or several by name."""
    if value is None:
        return SILENT
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {paper_text(part)}" for name, part in value.items())
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def as_json(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """The claims without the rows behind them, which are in ``tables/claims``."""
    names = ["name", "title", "statement", "verdict", "value", "low", "high", "unit", "interval"]
    names += ["n", "measured", "paper", "reason", "criterion"]
    return [plain({name: getattr(claim, name) for name in names}) for claim in claims]


def row(claim: Mapping[str, Any], version: str) -> dict[str, Any]:
    """One claim of :func:`as_json` as texts for the page and the terminal.

    Returns:
        Texts by name: ``name``, ``title``, ``statement``, ``verdict``, ``mark``, ``value``,
        ``interval``, ``unit`` (empty for shares, which say theirs), ``how`` (the interval was
        made), ``n``, ``paper`` (of this version), ``versions`` (of all of them), ``reason`` and
        ``criterion``.
    """
    value, unit = quantity(claim["value"], claim["unit"]), claim["unit"]
    texts = {name: claim[name] for name in ("name", "title", "statement", "verdict", "reason")}
    return texts | {
        "mark": MARKS[claim["verdict"]],
        "value": value,
        "interval": interval_text(claim["low"], claim["high"], unit),
        "unit": "" if unit == "share" or value == NOTHING else unit,
        "how": claim["interval"],
        "n": counts(claim["n"]),
        "paper": paper_text(claim["paper"][version]),
        "versions": [(name, paper_text(value)) for name, value in claim["paper"].items()],
        "criterion": claim["criterion"],
    }


def tally(claims: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The number of claims of :func:`as_json` with each verdict."""
    return {verdict: sum(c["verdict"] == verdict for c in claims) for verdict in VERDICTS}


def frame(claims: Sequence[Claim]) -> pd.DataFrame:
    """A row per claim with plain values, for CSV."""
    names = ["name", "title", "verdict", "value", "low", "high", "unit", "interval"]
    rows = [
        {name: getattr(claim, name) for name in names}
        | {"n": counts(claim.n), "measured": claim.measured}
        | {f"paper_{version}": claim.paper[version] for version in REFERENCES}
        | {name: getattr(claim, name) for name in ("reason", "criterion", "statement")}
        for claim in claims
    ]
    return pd.DataFrame(rows)


def write(folder: Path, claims: Sequence[Claim], file: Write = write_atomically) -> list[Path]:
    """Write ``claims.csv``, and the rows behind every claim to ``claims/NAME.csv``, by ``file``."""
    written = [write_csv(folder / "claims.csv", frame(claims), file)]
    for claim in claims:
        if not claim.table.empty:
            written.append(write_csv(folder / "claims" / f"{claim.name}.csv", claim.table, file))
    return written


def terminal(
    sweeps: Mapping[str, Sequence[Mapping[str, Any]]],
    version: str,
    console: Console,
    *,
    undecided: bool = True,
) -> None:
    """Print the claims table; 80 columns are enough.

    Args:
        sweeps: claims of :func:`as_json` by name of the sweep; one or two.
        version: of the paper.
        console: where to print.
        undecided: name below the table, with the reason, the claims that no sweep decides.
    """
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", expand=True)
    grid.title = Text(f"Claims of arXiv:2602.15997, {version}", style="bold")
    grid.add_column("claim", ratio=4, overflow="fold")
    for name in sweeps:
        heading = in_terminal(f"{name}, 95% interval" if len(sweeps) == 1 else name)
        grid.add_column(heading, ratio=5, overflow="fold")
    grid.add_column(f"paper {version}", ratio=3, overflow="fold")
    rows, folded = [], []
    for claims in zip(*sweeps.values(), strict=True):
        decided = any(claim["verdict"] != NOT_ENOUGH for claim in claims)
        (rows if decided else folded).append(claims)
    for claims in rows:
        cells = []
        for claim in claims:
            texts, verdict = row(claim, version), claim["verdict"]
            mark = Text(f"{MARKS[verdict]} {verdict}", style=_STYLES[verdict])
            cells.append(mark.append(f"\n{printable(here(texts))}", style="default not bold"))
        grid.add_row(
            claims[0]["title"], *cells, in_terminal(paper_text(claims[0]["paper"][version]))
        )
    if rows:
        console.print(grid)
    if folded and undecided:
        named = (f"{claims[0]['title']} ({claims[0]['reason']})" for claims in folded)
        console.print(in_terminal(f"{MARKS[NOT_ENOUGH]} {NOT_ENOUGH}: {'; '.join(named)}"), "")
    for name, claims in sweeps.items():
        counted = [f"{count} {verdict}" for verdict, count in tally(claims).items() if count]
        console.print(in_terminal(f"{name}: {', '.join(counted)}"), style="bold")


def here(texts: Mapping[str, Any]) -> str:
    """The value with its interval in one line, or the reason why there is none."""
    if texts["verdict"] == NOT_ENOUGH:
        return texts["reason"]
    whole = f"{texts['value']} ({texts['interval']})" if texts["interval"] else texts["value"]
    whole += f" {texts['unit']}" if texts["unit"] else ""
    return f"{whole}; {texts['n']}" if texts["n"] else whole
