"""Build the whole report of one sweep."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from geomfast.analysis import cells, hessian, llc, reference, summarise, top_down, truncation
from geomfast.files import write_atomically, write_json
from geomfast.records import RecordsError, load_records
from geomfast.report import page, tables
from geomfast.report.style import need


def build(out: Path, html: Path | None = None, *, against: str = "v4") -> dict[str, Any]:
    """Write figures, tables, report.json and report.html from the records under ``out``.

    With one run its figures lie in ``figures/``; with several, each run's lie in
    ``figures/RUN/`` and ``figures/collapse.png`` shows the first run (smallest scale, first seed).
    The page holds the interactive curves of all runs and the static figures of one run per scale.

    Args:
        out: folder of a sweep, with ``records/`` and, if there is one, ``settings.json``.
        html: where to write the page; ``OUT/report.html`` when None.
        against: version of arXiv:2602.15997 whose values stand beside ours.

    Returns:
        ``against``, ``paper``, ``settings``, ``summary``, ``lines`` (label, value and remark of
        the key numbers), ``cells``, ``top_down``, ``gradient_ranks``, ``hessian`` and ``llc``
        (rows) as plain JSON values, as in report.json, and ``paths`` (``html``, ``json``,
        ``figures``, ``tables``).

    Raises:
        FileNotFoundError: no such folder, or no records in it.
        RecordsError: a file there cannot be read, or there is no task-level in the records.
        MissingExtra: matplotlib, plotly or jinja2 is not installed.
        ValueError: ``against`` is not a version we have values of, or a value was measured with
            several settings.
    """
    paper = reference(against)
    # Before any work: a missing package is known now, not after the figures.
    for module in ("matplotlib", "plotly", "jinja2"):
        need(module)
    records = load_records(out)
    settings = read_settings(out / "settings.json")
    table = cells(records, chance=settings.get("chance"))
    if table.empty:
        raise RecordsError(f"{out}: the records hold neither RankMe nor behaviour of any task")
    summary = summarise(records, table)
    orders = top_down(records)
    extra = {
        "gradient_ranks": truncation(records),
        "hessian": hessian(records),
        "llc": llc(records),
    }
    lines = tables.summary_lines(summary, paper, against)

    paths, pictures = _write_figures(out / "figures", records, table)
    written = [
        tables.write_csv(out / "tables" / "cells.csv", table),
        tables.write_csv(out / "tables" / "top_down.csv", _flat(orders)),
    ]
    written += [
        tables.write_csv(out / "tables" / f"{name}.csv", found)
        for name, found in extra.items()
        if not found.empty
    ]
    html = html or out / "report.html"
    text = page.render(records, table, lines, pictures, settings, against)
    write_atomically(html, text.encode())
    result = tables.plain(
        {
            "against": against,
            "paper": paper,
            "settings": dict(page.shown_settings(settings)),
            "summary": summary,
            "lines": lines,
            "cells": table,
            "top_down": orders,
            **extra,
        }
    )
    write_json(out / "report.json", result)
    result["paths"] = {
        "html": str(html),
        "json": str(out / "report.json"),
        "figures": [str(path) for path in paths],
        "tables": [str(path) for path in written],
    }
    return result


def read_settings(path: Path) -> dict[str, Any]:
    """Content of settings.json; empty when there is none.

    Raises:
        RecordsError: it is not a JSON object.
    """
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise RecordsError(f"{path}: {error}") from error
    if not isinstance(settings, dict):
        raise RecordsError(f"{path}: expected a JSON object")
    return settings


def _write_figures(
    folder: Path, records: pd.DataFrame, table: pd.DataFrame
) -> tuple[list[Path], dict[str, list[tuple[str, str]]]]:
    """Write every run's figures; return their paths, and heading and SVG text for the page."""
    from geomfast.report.figures import FIGURES

    runs = list(dict.fromkeys(table["run"]))
    on_page = set(table.drop_duplicates("scale")["run"])
    paths: list[Path] = []
    pictures: dict[str, list[tuple[str, str]]] = {run: [] for run in runs}
    for index, run in enumerate(runs):
        rows, its_table = records[records["run"] == run], table[table["run"] == run]
        place = folder / run.replace("/", "_") if len(runs) > 1 else folder
        for name, heading, draw in FIGURES:
            figure = draw(rows, its_table)
            if figure is None:
                continue
            png, svg = _bytes(figure, "png"), _bytes(figure, "svg")
            for kind, content in (("png", png), ("svg", svg)):
                paths.append(place / f"{name}.{kind}")
                write_atomically(paths[-1], content)
                if index == 0 and len(runs) > 1 and name == FIGURES[0][0]:
                    paths.append(folder / f"{name}.{kind}")
                    write_atomically(paths[-1], content)
            if run in on_page:
                # From the first tag on: an XML declaration has no place inside a page.
                text = svg.decode()
                pictures[run].append((heading, text[text.index("<svg") :]))
    return paths, pictures


def _bytes(figure: Any, kind: str) -> bytes:
    sink = io.BytesIO()
    # No date, so that the same records give the same file.
    with need("matplotlib").rc_context({"svg.hashsalt": "geomfast"}):
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(sink, format=kind, dpi=100, metadata=metadata)
    return sink.getvalue()


def _flat(orders: pd.DataFrame) -> pd.DataFrame:
    """One cell of text for the steps of all blocks, first to last, separated by spaces."""
    steps = orders["half_steps"]
    return orders.assign(half_steps=[" ".join(f"{half:g}" for half in row) for row in steps])
