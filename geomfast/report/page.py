"""One self-contained HTML page: opens offline, loads nothing."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.topdown import top_down
from geomfast.analysis.trajectories import task_level
from geomfast.records import FINAL
from geomfast.report import tables
from geomfast.report.curves import curves
from geomfast.report.style import COLOUR, block_colour, need

#: A value of the settings longer than this is not shown on the page; it is in settings.json.
LONGEST_SETTING = 800


def render(
    records: pd.DataFrame,
    table: pd.DataFrame,
    lines: list[tuple[str, str, str]],
    figures: dict[str, list[tuple[str, str]]],
    settings: dict[str, Any],
    version: str,
) -> str:
    """The page as text.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        table: rows of :func:`geomfast.analysis.cells`.
        lines: label, value and remark of the key numbers.
        figures: by run, the heading and the SVG text of every figure; a run may have none.
        settings: content of settings.json; every key is optional.
        version: of the paper that the numbers are set beside.

    Raises:
        MissingExtra: jinja2 or plotly is not installed.
    """
    jinja2 = need("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    Markup = need("markupsafe").Markup
    runs = list(dict.fromkeys(table["run"]))
    by_run = {str(run): rows for run, rows in table.groupby("run", sort=False)}
    orders = top_down(records, by_task=True)
    return environment.get_template("page.html.j2").render(
        title=_title(records, settings),
        runs=runs,
        first_run=runs[0] if runs else "",
        lines=lines,
        collapse_head=[heading for _, heading, _ in tables.COLLAPSE[:6]],
        collapse={run: _rows(rows, tables.COLLAPSE[:6]) for run, rows in by_run.items()},
        emergence={run: _emergence(rows) for run, rows in by_run.items()},
        orders={run: _orders(orders[orders["run"] == run]) for run in runs},
        figures={
            run: [(heading, _data_uri(svg)) for heading, svg in pictures]
            for run, pictures in figures.items()
        },
        settings=shown_settings(settings),
        version=version,
        measured=_measured(records),
        plotly=Markup(need("plotly.offline").get_plotlyjs()),
        data=Markup(_script_json(chart_data(records, table))),
    )


def _title(records: pd.DataFrame, settings: dict[str, Any]) -> str:
    scales = ", ".join(dict.fromkeys(records["scale"].astype(str)))
    presets = [str(call.get("preset", "")) for call in _calls(settings)]
    return f"geomfast: {scales}" + (f" ({presets[0]} preset)" if any(presets[:1]) else "")


def _calls(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls of ``geomfast sweep`` that made the records, as settings.json lists them."""
    calls = settings.get("calls")
    return [c for c in calls if isinstance(c, dict)] if isinstance(calls, list) else []


def _measured(records: pd.DataFrame) -> list[tuple[str, str]]:
    """Per measure: how many values, on how many samples, computed how."""
    found = []
    for measure, rows in records.groupby("measure"):
        n = ", ".join(f"{v:,}" for v in sorted(set(rows["n"].dropna().astype(int))))
        ran = sorted(set(rows["backend"].dropna()) | set(rows["device"].dropna()))
        how = ", ".join(str(v) for v in ran if v)
        found.append((str(measure), f"{len(rows):,} values; n = {n}; {how}"))
    return found


def _rows(rows: pd.DataFrame, columns: Any) -> list[tuple[str, list[str]]]:
    return [
        (task_level(row["task"], row["level"]), [tables.cell(row, c, "–") for _, _, c in columns])
        for _, row in rows.iterrows()
    ]


def _emergence(rows: pd.DataFrame) -> list[tuple[str, list[str]]]:
    found = []
    for _, row in rows.iterrows():
        texts = [tables.cell(row, "emerged_step", "–")]
        texts += [tables.cell(row, name, "–") for name in ("final_accuracy", "best_accuracy")]
        texts += [tables.step(row["logprob_step"], "–"), tables.number(row["final_logprob"], "–")]
        lead = row["emerged_step"] - row["floor_step"] if row["collapsed"] else np.nan
        found.append((task_level(row["task"], row["level"]), [*texts, tables.step(lead, "–")]))
    return found


def _orders(rows: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    return [
        (
            str(row["task"]),
            " → ".join(tables.step(half, "–") for half in row["half_steps"]),
            str(row["verdict"]),
            tables.number(float(row["tau_b"]), "–"),
        )
        for _, row in rows.iterrows()
    ]


def shown_settings(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and text of what settings.json says in scalars, lists or one level of names."""
    rest = {name: value for name, value in settings.items() if name not in ("calls", "recipes")}
    recipes = settings.get("recipes")
    if isinstance(recipes, dict):
        rest |= {f"recipe of {scale}": recipe for scale, recipe in recipes.items()}
    for name in ("command", "date", "machine", "versions"):
        said = [call[name] for call in _calls(settings) if name in call]
        said = [value for index, value in enumerate(said) if value not in said[:index]]
        if said:
            rest[name] = said[0] if len(said) == 1 else said
    shown = []
    for name, value in rest.items():
        if isinstance(value, dict):
            texts = {key: _flat(item) for key, item in value.items()}
            text = "; ".join(f"{key} {item}" for key, item in texts.items() if item)
        else:
            text = _flat(value)
        if text and len(text) <= LONGEST_SETTING:
            shown.append((name, text))
    return shown


def _flat(value: Any) -> str:
    """A scalar, a list or one level of names as text; empty for nothing."""
    if isinstance(value, list):
        return ", ".join(_flat(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{key} {item}" for key, item in value.items() if _is_plain(item))
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict | list) and value is not None


def chart_data(records: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """What the interactive chart draws: by run and task-level, every curve on the run's steps."""
    data: dict[str, Any] = {}
    for run, rows in records.groupby("run", sort=False):
        steps = sorted(set(rows["step"]))
        place = {int(step): index for index, step in enumerate(steps)}
        found: dict[str, Any] = {}
        for name in ("rankme", "accuracy", "answer_logprob"):
            for (task, level), layers in curves(rows, name).items():
                cell = found.setdefault(task_level(task, level), {"layers": []})
                blocks = [label for label in layers if label != FINAL]
                for label, (at, values) in layers.items():
                    line = _aligned(at, values, place)
                    if name != "rankme":
                        cell[name] = line
                        continue
                    colour = COLOUR["rankme"]
                    if label != FINAL:
                        rgb = block_colour(blocks.index(label), len(blocks))
                        colour = "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
                    cell["layers"].append({"name": label, "colour": colour, "values": line})
        data[str(run)] = {"steps": [int(step) for step in steps], "cells": found}
    for _, row in table.iterrows():
        cell = data[row["run"]]["cells"].get(task_level(row["task"], row["level"]))
        if cell is not None:
            names = ["floor_step", "floor"] if row["collapsed"] else []
            cell["events"] = tables.plain({name: row[name] for name in [*names, "emerged_step"]})
    order = [task_level(t, v) for t, v in zip(table["task"], table["level"], strict=True)]
    return {"runs": data, "order": list(dict.fromkeys(order)), "colour": COLOUR}


def _aligned(at: np.ndarray, values: np.ndarray, place: dict[int, int]) -> list[float | None]:
    line: list[float | None] = [None] * len(place)
    for step, value in zip(at, values, strict=True):
        # Four digits draw the same curve at half the size.
        line[place[int(step)]] = float(f"{value:.4g}")
    return line


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")


def _data_uri(svg: str) -> str:
    """An SVG as the source of an image, its path coordinates cut to a hundredth of a point."""

    def shorten(match: re.Match[str]) -> str:
        return re.sub(r"(\.\d\d)\d+", r"\1", match[0])

    short = re.sub(r'\bd="[^"]*"', shorten, svg)
    return "data:image/svg+xml;base64," + base64.b64encode(short.encode()).decode()
