"""The tables of benchmarks: on the page, in the terminal, as CSV and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from geomfast.report import claims
from geomfast.report.evaluations.data import Evaluations
from geomfast.report.evaluations.wording import measure_name, short_step, task_name
from geomfast.report.names import in_terminal
from geomfast.report.tables import Write, number, plain, step, write_csv

#: Headings of the counts by model.
COUNTS = ("model", "tasks", "rise", "kept", "by a tenth", "median step", "above, last")
COUNTS += ("below, last", "above, ever", "below, ever")
#: What stands in these columns.
LEGEND = (
    "rise: above chance and above the first value by two standard errors, for three checkpoints; "
    "+: at the end, for fewer; kept: at the last too; by a tenth: a tenth of the way from chance "
    "to all answers right. above, below: chance by two standard errors, at the last or at any "
    "checkpoint, persistent or not."
)
#: Most tasks of a table on the page.
MOST_ROWS = 100


def count_rows(found: Evaluations) -> list[list[str]]:
    """A row of texts per run, in the order of :data:`COUNTS`."""
    names = ("tasks", "rise", "kept", "tenth", "median_step")
    rows = []
    for row in found.counts.to_dict("records"):
        texts = [found.labels[str(row["run"])], *(step(float(row[name]), "–") for name in names)]
        texts[2] += f" (+{row['pending']})" if row["pending"] else ""
        texts += [str(row[n]) for n in ("last_above", "last_below", "ever_above", "ever_below")]
        rows.append(texts)
    return rows


def key_lines(found: Evaluations) -> list[tuple[str, str, str]]:
    """Label, value and remark of the key numbers."""
    counts, last = found.counts, found.runs[-1]
    of_last = counts[counts["run"] == last].iloc[0]
    tasks = int(counts["tasks"].max())
    first = counts.iloc[0]
    lines = [
        (
            "Tasks that leave chance",
            f"{of_last['rise']} of {of_last['tasks']}",
            f"{found.labels[last]}; {first['rise']} at {found.labels[found.runs[0]]}; "
            f"{len(found.shown)} of {tasks} in any model",
        )
    ]
    below, above = int(counts["ever_below"].max()), int(counts["ever_above"].max())
    lines.append(
        (
            "Ever above, ever below chance",
            f"{above}, {below}",
            "most of any model, by two standard errors at any checkpoint; luck at one checkpoint: "
            f"{counts['by_luck'].max():.1f} of {tasks}",
        )
    )
    order = found.order
    swapped, decided = int(order["swapped"].sum()), int((order["swapped"] + order["same"]).sum())
    risen = int((order["swapped_risen"] + order["same_risen"]).sum())
    if decided:
        lines.append(
            (
                "Pairs of tasks that swap",
                f"{swapped / decided:.1%}",
                f"{swapped:,} of {decided:,} pairs of tasks and models with a known order; of "
                f"tasks that rise in both {order['swapped_risen'].sum():,} of {risen:,}",
            )
        )
    sudden = found.sudden[found.sudden["measure"] == "accuracy"]
    verdicts = sudden["verdict"].value_counts()
    if len(sudden):
        told = ", ".join(f"{n} {name}" for name, n in verdicts.items() if name != "sudden")
        lines.append(("Sudden rises", f"{verdicts.get('sudden', 0)} of {len(sudden)}", told))
    if len(found.needed):
        lines.append(
            (
                "Further checkpoints needed",
                f"{int(found.needed['further'].sum()):,}",
                "over all models, to place every rise within a quarter of a doubling of the step",
            )
        )
    return lines


def rise_rows(found: Evaluations) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row per task that rises: its step by run, and its kind."""
    table = pd.concat([found.rises, found.pooled_rises])
    steps = {(row["task"], row["run"]): float(row["step"]) for row in table.to_dict("records")}
    rows = []
    for task in [*found.shown, *found.members][:MOST_ROWS]:
        kind = found.kinds.get(task, "")
        texts = [short_step(steps.get((task, run), math.nan)) for run in found.runs]
        rows.append([task_name(task, found.members), kind, *texts])
    return ["task", "kind", *(found.labels[run] for run in found.runs)], rows


def kind_rows(found: Evaluations) -> list[list[str]]:
    """Headings, and by kind how many tasks rise in each run."""
    table = found.rises.assign(kind=found.rises["task"].map(found.kinds))
    head = ["kind", "tasks", *(found.labels[run] for run in found.runs)]
    rows = [head]
    for kind, own in table.groupby("kind"):
        risen = own[own["step"].notna()].groupby("run").size()
        counts = [str(int(risen.get(run, 0))) for run in found.runs]
        rows.append([str(kind).replace("_", " "), str(own["task"].nunique()), *counts])
    return rows


def swap_rows(found: Evaluations) -> list[list[str]]:
    """Pairs of tasks that swap between neighbouring scales."""
    rows = []
    for run, other in zip(found.runs, found.runs[1:], strict=False):
        pairs = found.swapped
        own = pairs[(pairs["run"] == run) & (pairs["other"] == other)]
        for row in own.to_dict("records"):
            ends = [task_name(str(row[name]), {}) for name in ("first", "second")]
            first, second = ends if row["here"] > 0 else ends[::-1]
            rows.append([found.labels[run], found.labels[other], first, second])
    return rows


def precursor_rows(found: Evaluations) -> list[list[str]]:
    """A row per measure of the geometry: leads of events, rate and interval, median lead."""
    rows = []
    for row in found.precursors.to_dict("records"):
        interval = claims.interval_text(row["low"], row["high"], "share")
        rate = claims.quantity(row["rate"], "share") + (f" ({interval})" if interval else "")
        texts = [f"{row[name]}" for name in ("leads", "ties", "lags", "no_change")]
        lead = number(float(row["median_lead"]), "–")
        rows.append([measure_name(str(row["measure"])), f"{row['events']}", *texts, rate, lead])
    return rows


def write(folder: Path, found: Evaluations, put: Write) -> list[Path]:
    """Write all tables as CSV; returns their paths."""
    kept = {
        "counts": found.counts,
        "rises": pd.concat([found.rises, found.pooled_rises]),
        "rises_by_a_tenth": found.tenth,
        "order": found.order,
        "suddenness": found.sudden,
        "scaling": found.scaling,
        "checkpoints_needed": found.needed,
        "beside": found.beside,
        "leads": found.leads,
        "precursors": found.precursors,
        "correlations": found.correlations,
        "early_geometry": found.early,
    }
    kept["swapped"] = found.swapped
    return [
        write_csv(folder / f"{name}.csv", table.drop(columns="curve", errors="ignore"), put)
        for name, table in kept.items()
        if len(table)
    ]


def as_json(found: Evaluations) -> dict[str, Any]:
    """The numbers of the report as plain JSON values."""
    return plain(
        {
            "lines": key_lines(found),
            "claims": claims.as_json(found.claims),
            "tasks": {task: dict(told) for task, told in found.tasks.items()},
            "counts": found.counts,
            "rises": pd.concat([found.rises, found.pooled_rises]),
            "order": found.order,
            "suddenness": found.sudden,
            "checkpoints_needed": found.needed,
            "precursors": found.precursors,
            "early_geometry": found.early,
        }
    )


def terminal(result: Mapping[str, Any], console: Console) -> None:
    """Print the key numbers and the counts by model."""
    numbers = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "left"):
        numbers.add_column(justify=justify, no_wrap=justify != "left", overflow="fold")
    for label, value, remark in result["lines"]:
        numbers.add_row(in_terminal(label), in_terminal(value), in_terminal(remark))
    console.print(numbers, "")
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    grid.caption, grid.caption_justify = LEGEND, "left"
    for i, heading in enumerate(COUNTS):
        grid.add_column(heading, justify="left" if i == 0 else "right")
    for texts in result["count_rows"]:
        grid.add_row(*(in_terminal(text) for text in texts))
    console.print(grid)
