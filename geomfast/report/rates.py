"""What each learning rate of a sweep shows, as tables for the page, the terminal and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from geomfast.analysis.claim import NOT_ENOUGH
from geomfast.analysis.rates import BEST, OWN
from geomfast.files import write_atomically
from geomfast.report import claims
from geomfast.report.data import ByRate
from geomfast.report.names import in_terminal
from geomfast.report.tables import Write, number, plain, write_csv
from geomfast.testbed.tasks.names import task_level

#: Column of the rows of :func:`loss_rows` beside the floors.
HEAD = ("scale", "learning rate", "runs", "loss")
FLOOR = "floor of "


def shown_text(found: ByRate) -> str:
    """Which runs the rest of a report is about, as a sentence."""
    others = "geomfast report OUT --rate shows others"
    if found.shown != BEST:
        return f"Everything else here is about the runs at {found.shown}; {others}."
    best = found.losses[found.losses["best"]]
    each = ", ".join(f"{row.scale} {row.rate}" for row in best.itertuples())
    left_out = found.left_out
    lacking = f" No behaviour, so no best rate: {', '.join(left_out)}." if left_out else ""
    return (
        f"Everything else here is about the runs at each scale's best: {each}; {others}.{lacking}"
    )


def floor_cells(found: ByRate, most: int = 3) -> list[tuple[str, int]]:
    """The task-levels whose floors are shown: the easiest level of MOD, which the paper has at 2.0,
    and of other tasks, in the order of the records."""
    cells = found.floors[["task", "level"]].drop_duplicates()
    easiest = cells.groupby("task", sort=False)["level"].min()
    tasks = sorted(easiest.index, key=lambda task: task != "MOD")
    return [(str(task), int(easiest[task])) for task in tasks[:most]]


def loss_rows(found: ByRate) -> list[dict[str, Any]]:
    """A row per scale and rate as texts: those of :data:`HEAD`, ``floors``, and ``best``."""
    floors = found.floors.set_index(["rate", "scale", "task", "level"])["floor"]
    rows = []
    for row in found.losses.to_dict("records"):
        runs = str(row["runs"])
        if row["finished"] < row["runs"]:
            runs = f"{row['finished']} of {row['runs']}"
        loss = number(row["loss"], "–")
        at = [(row["rate"], row["scale"], *cell) for cell in floor_cells(found)]
        rows.append(
            {
                "scale": row["scale"],
                "rate": "the scale's own" if row["rate"] == OWN else row["rate"],
                "runs": runs,
                "loss": loss,
                "floors": [number(float(floors.get(key, float("nan"))), "–") for key in at],
                "best": bool(row["best"]),
            }
        )
    return rows


def claim_rows(found: ByRate) -> list[tuple[str, list[dict[str, str]]]]:
    """A row per claim that some rate decides: its title, and mark, verdict and value at each."""
    judged = {rate: claims.as_json(each) for rate, each in found.claims.items()}
    rows = []
    for same in zip(*judged.values(), strict=True):
        if all(claim["verdict"] == NOT_ENOUGH for claim in same):
            continue
        sides = []
        for claim in same:
            texts = claims.row(claim, "v4")
            value = "" if claim["verdict"] == NOT_ENOUGH else texts["value"]
            sides.append({"mark": texts["mark"], "verdict": claim["verdict"], "value": value})
        rows.append((same[0]["title"], sides))
    return rows


def for_page(found: ByRate | None) -> dict[str, Any] | None:
    """All that the page's section shows."""
    if found is None:
        return None
    return {
        "text": shown_text(found),
        "head": [*HEAD, *(FLOOR + task_level(*cell) for cell in floor_cells(found))],
        "rows": loss_rows(found),
        "rates": ["best of each scale" if rate == BEST else rate for rate in found.claims],
        "claims": claim_rows(found),
    }


def as_json(found: ByRate | None) -> dict[str, Any] | None:
    """The same as report.json has it: the table as texts, and every loss, floor and claim."""
    if found is None:
        return None
    page = for_page(found) or {}
    texts = {name: page[name] for name in ("text", "head", "rows")}
    tables = {"losses": found.losses, "floors": found.floors}
    judged = {rate: claims.as_json(each) for rate, each in found.claims.items()}
    return plain({"shown": found.shown, **texts, **tables, "claims": judged})


def write(folder: Path, found: ByRate | None, file: Write = write_atomically) -> list[Path]:
    """Write ``rates.csv``, ``floors_by_rate.csv`` and ``claims_by_rate.csv``, by ``file``."""
    if found is None:
        return []
    judged = [claims.frame(each).assign(rate=rate) for rate, each in found.claims.items()]
    by_rate = pd.concat(judged, ignore_index=True)
    tables = {
        "rates": found.losses,
        "floors_by_rate": found.floors,
        "claims_by_rate": by_rate[["rate", *(n for n in by_rate.columns if n != "rate")]],
    }
    return [write_csv(folder / f"{name}.csv", table, file) for name, table in tables.items()]


def terminal(found: dict[str, Any], console: Console) -> None:
    """Print the losses and floors of every rate, and which runs the rest is about.

    Args:
        found: of :func:`as_json`.
        console: where to print.
    """
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    grid.title = in_terminal(
        "Learning rates: loss at the last step (nats per answer token), floors of RankMe"
    )
    grid.title.stylize("bold")
    for name in found["head"]:
        left = name in HEAD[:2]
        heading = in_terminal(name.removeprefix(FLOOR))
        grid.add_column(heading, justify="left" if left else "right", no_wrap=left)
    for row in found["rows"]:
        texts = (row["scale"], row["rate"] + " (best)" * row["best"], row["runs"], row["loss"])
        grid.add_row(*map(in_terminal, (*texts, *row["floors"])))
    console.print(grid)
    console.print(in_terminal(found["text"]), "")
