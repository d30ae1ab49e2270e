"""The report's tables: in the terminal, as CSV and as JSON."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from geomfast.analysis.others import others, value_columns
from geomfast.files import write_atomically
from geomfast.report.curves import DOUBT
from geomfast.report.names import in_spreadsheet, in_terminal
from geomfast.report.panels import spec_texts
from geomfast.testbed.tasks.names import task_level

#: Heading in the terminal, heading on the page, and column of :func:`geomfast.analysis.cells`.
COLLAPSE = (
    ("initial", "initial", "initial"),
    ("floor", "floor", "floor"),
    ("at", "floor at step", "floor_step"),
    ("recovered", "half recovered at step", "recovery_step"),
    ("above", "above initial at step", "exceeded_step"),
    ("final", "final", "final"),
    ("emerged", "emerged at step", "emerged_step"),
    ("accuracy", "final accuracy", "final_accuracy"),
)

#: What stands in these columns, for those who read them in a terminal.
COLLAPSE_LEGEND = (
    "initial, floor, final: RankMe. at, recovered, above: steps of the floor, of half of the drop "
    "recovered, and of RankMe above its initial value. emerged: step from which accuracy is held."
)

#: A function that writes a file of the report.
Write = Callable[[Path, bytes], None]
#: Most runs whose tables are printed.
RUNS_PRINTED = 2


def number(value: float, none: str = "-") -> str:
    """A value with three significant digits: 0.512, 27.0, 1.20e-5."""
    if math.isnan(value):
        return none
    if value and not 1e-3 <= abs(value) < 1e5:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits}e{int(power)}" if math.isfinite(value) else f"{value:g}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: never "-0.000"


def step(value: float, none: str = "-") -> str:
    """A training step with thousands separators."""
    return none if math.isnan(value) else f"{value:,.0f}"


def _known(value: float | None) -> float:
    """The value, or NaN for None, which stands for NaN in JSON."""
    return math.nan if value is None else float(value)


def cell(row: Any, column: str, none: str = "-") -> str:
    """Text of one cell of the collapse table.

    Where a step is missing it says why: *no* (it has not happened by the last checkpoint, which
    may not be the end of the run), or *pending* (above the threshold, for too few checkpoints).
    """
    value = _known(row[column])
    if (
        column == "emerged_step"
        and math.isnan(value)
        and not math.isnan(_known(row["final_accuracy"]))
    ):
        return "pending" if row["pending"] else "no"
    if column in ("recovery_step", "exceeded_step") and math.isnan(value) and row["collapsed"]:
        return "no"
    if column.endswith("_step"):
        return step(value, none)
    if column.endswith("_accuracy"):
        return none if math.isnan(value) else f"{100 * value:.1f}%"
    return number(value, none)


def terminal(
    cells: list[dict[str, Any]], lines: list[tuple[str, str, str]], console: Console
) -> None:
    """Print the key numbers and, of a sweep of few runs, the collapse table of each.

    Args:
        cells: rows of :func:`geomfast.analysis.cells`, None or NaN where a value is missing.
        lines: label, value and remark of every key number.
        console: where to print, of 80 columns or more.
    """
    numbers = Table.grid(padding=(0, 2))
    numbers.add_column(no_wrap=True)
    numbers.add_column(no_wrap=True, justify="right")
    numbers.add_column(style="dim")
    for label, value, remark in lines:
        numbers.add_row(in_terminal(label), Text(value, style="bold"), in_terminal(remark))
    console.print(Group(numbers), "")
    runs = len({row["run"] for row in cells})
    if runs > RUNS_PRINTED:
        console.print(f"floors and emergence of all {runs} runs: tables/cells.csv")
        return
    for run, group in itertools.groupby(cells, key=lambda row: row["run"]):
        rows = list(group)
        grid = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            title_justify="left",
            caption=COLLAPSE_LEGEND,
            caption_justify="left",
        )
        grid.title = in_terminal(f"{run}: RankMe of the final state, and emergence")
        grid.title.stylize("bold")
        grid.add_column("task", no_wrap=True)
        for heading, _, _ in COLLAPSE:
            grid.add_column(heading, justify="right", no_wrap=True)
        previous = None
        for row in rows:
            if previous is not None and row["task"] != previous and len(rows) > 8:
                grid.add_section()
            previous = row["task"]
            texts = [cell(row, column) for _, _, column in COLLAPSE]
            grid.add_row(in_terminal(task_level(row["task"], row["level"])), *texts)
        console.print(grid)


def write_csv(path: Path, table: pd.DataFrame, write: Write = write_atomically) -> Path:
    """Write a table as CSV; missing values are empty.

    Text that a spreadsheet would take for a formula has an apostrophe before it.

    Args:
        path: of the file.
        table: what is written.
        write: writes a file.
    """
    texts = {
        str(name): _cells_of(column)
        for name, column in table.items()
        if not pd.api.types.is_numeric_dtype(column)
    }
    shown = table.assign(**texts).rename(columns=in_spreadsheet)
    write(path, shown.to_csv(index=False).encode(errors="backslashreplace"))
    return path


def _cells_of(column: pd.Series) -> pd.Series:
    """Texts that no spreadsheet takes for formulas, computed once for each different text."""
    if column.dtype == object:  # of several types, where 1 and True are equal keys
        return column.map(in_spreadsheet)
    changed = {text: in_spreadsheet(text) for text in column.unique()}
    same = all(new is old or new == old for old, new in changed.items() if isinstance(old, str))
    return column if same else column.map(changed)


def json_bytes(value: Any) -> bytes:
    """Indented JSON as the content of a file."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def plain(value: Any) -> Any:
    """A value that JSON can hold: None for NaN and infinities, Python numbers for numpy's."""
    if isinstance(value, pd.DataFrame):
        rows = value.to_numpy(dtype=object).tolist()
        return [plain(dict(zip(value.columns, row, strict=True))) for row in rows]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value if value is None else str(value)


def summary_lines(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Label, value and remark of the key numbers beside the claims.

    Args:
        summary: of :func:`geomfast.analysis.summarise`.
    """

    def share(name: str) -> str:
        return f"{summary[name]['count']}/{summary[name]['of']}"

    orders = summary["top_down_task_levels"]
    lines = [
        ("Floors below the initial value", share("collapsed"), "by any amount"),
        ("Later rise above the floor", share("recovered"), "half of the drop recovered and held"),
        ("Later rise above the initial value", share("exceeded"), "held"),
        ("Accuracy of 95% or more", share("solved"), "at the last checkpoint"),
        ("Floor before emergence", share("floor_before_emergence"), "of those with both"),
        (
            "Top-down, task-levels",
            share("top_down_task_levels"),
            _other_verdicts(orders) if orders["of"] else "needs at least two blocks",
        ),
    ]
    for measure, found in summary["truncation"].items():
        name = "Fisher" if measure == "fisher_rank" else "Covariance"
        remark = f"5-95%: {found['low']:.2f} to {found['high']:.2f}, {_levels(found['n'])}"
        if not math.isnan(found["correlation"]):
            remark += f"; correlation {found['correlation']:.2f}"
        lines.append((f"{name} rank, 50K / all", number(found["ratio"]), remark))
    lines += _course_lines(summary["hessian"]) + _llc_lines(summary["llc"])
    return lines + _course_lines(summary["measures"])


def _levels(n: int) -> str:
    return f"{n} task-level{'s' * (n != 1)}"


def _course_lines(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """A line per measure: medians over task-levels of its last, first and largest value."""
    names = {"hessian_top": "Top eigenvalue of the Hessian"}
    names["hessian_trace"] = "Trace of the Hessian"
    for spec in others():
        label, _ = spec_texts(spec)
        columns = value_columns(spec)
        names |= {name: label + name.removeprefix(spec.name).replace("_", ", ") for name in columns}
    lines = []
    for measure, found in summary.items():
        remark = (
            f"median of {_levels(found['n'])} at the end; {number(found['initial'])} at first, "
            f"largest {number(found['largest'])} at step {step(found['largest_step'])}"
        )
        layer = f", {found['layer']}" if found.get("layer") else ""
        lines.append((names[measure] + layer, number(found["final"]), remark))
    return lines


def _llc_lines(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    if not summary:
        return []
    found, doubts = summary["mixture"], summary["doubts"]
    doubtful = sum(doubts.values())
    remark = f"{DOUBT} " * bool(doubtful) + f"in doubt: {doubtful} of {summary['values']} values"
    label, value = "LLC of the mixture", number(found["final"])
    if not found["n"]:
        beyond = summary["values"] - doubtful
        label, value = "LLC beyond doubt", f"{beyond}/{summary['values']}"
    if not math.isnan(found["final"]):
        largest = f"{number(found['largest'])} at step {step(found['largest_step'])}"
        remark = f"± {number(found['stderr'])} at the end; largest {largest}; {remark}"
    reasons = ", ".join(f"{count} {name}" for name, count in doubts.items() if count)
    remark += f" ({reasons})" if reasons else ""
    if bounds := summary["bounds"]:
        remark += f"; {bounds} are lower bounds, as localization holds their chains"
    return [(label, value, remark)]


def _other_verdicts(counts: dict[str, Any]) -> str:
    others = [
        f"{count} {name}"
        for name, count in counts["verdicts"].items()
        if count and name != "top-down"
    ]
    p_value = counts["p_value"]
    others.append("p undefined" if math.isnan(p_value) else f"p = {p_value:.2g} by permutation")
    return "; ".join(others)
