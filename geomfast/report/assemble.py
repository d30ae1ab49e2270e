"""Build the whole report of one sweep, or of two beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from geomfast.analysis import (
    hessian,
    llc,
    other_measures,
    reference,
    summarise,
    top_down,
    truncation,
)
from geomfast.analysis.rates import BEST
from geomfast.analysis.remember import remembering
from geomfast.report import claims, compare, drawing, page, rates, tables, tracked
from geomfast.report.data import read
from geomfast.report.extras import need
from geomfast.report.place import MARK, place_of_folder
from geomfast.report.settings import shown_settings


@remembering()
def build(
    out: Path,
    html: Path | None = None,
    *,
    against: str = "v4",
    compare_with: Path | None = None,
    every_run: bool = False,
    processes: int = 1,
    rate: str = BEST,
) -> dict[str, Any]:
    """Write figures, tables, report.json and report.html from the records under ``out``.

    Figures of all runs together are in ``figures/``.  With one run its own are there too; with
    several, each run's are in ``figures/RUN/`` and ``figures/collapse.png`` shows the first run
    (smallest scale, first seed).  Drawing takes seconds a run, so that only the first run of every
    scale and task is drawn unless ``every_run`` asks for all; the page holds those, and
    interactive curves of all runs.

    Args:
        out: folder of a sweep, with ``records/`` and, if there is one, ``settings.json``.
        html: where to write the page; ``OUT/report.html`` when None.  Only files that geomfast
            wrote are overwritten.
        against: version of arXiv:2602.15997 whose values are shown beside these.
        compare_with: folder of a second sweep or tracker, shown together with the first.
        every_run: draw the figures of every run.
        processes: most processes that draw the figures of several runs, beside this one.  They
            import the calling program's main module, as those of :mod:`multiprocessing` do, so
            that more than one needs ``if __name__ == "__main__":`` there.
        rate: of a sweep at several learning rates, the one whose runs are shown, such as
            ``lr0.001``; of each scale the best when ``best``.  What all of them show is in a
            section of its own.

    Records of a tracker get another page: first the curves of all measures, those of two such
    folders over each other, and of the claims those that can be decided.

    Returns:
        ``generator``, ``name``, ``notes`` (what was left out, and why), ``against``, ``paper``,
        ``claims``, ``settings``, ``summary``, ``lines`` (label, value and remark of the key
        numbers), ``cells``, ``top_down``, ``gradient_ranks``, ``hessian``, ``llc``, ``depth`` and
        ``measures`` (rows; of measures without a table of their own), ``compare`` (None, or what
        was found of the other sweep) and ``rates`` (None, or ``shown``, ``losses``, ``floors`` and
        ``claims`` of every learning rate) as plain JSON values, as in report.json, and ``paths``
        (``html``, ``json``, ``figures``, ``tables``).

    Raises:
        FileNotFoundError: no such folder, or no records in it.
        FileError: a file is in the way that geomfast did not write, or a link leads out of ``out``.
        RecordsError: a file there cannot be read, there is no task-level in the records, or some
            of them are duplicate or contradictory.
        MissingExtra: matplotlib, plotly or jinja2 is not installed.
        ValueError: ``against`` is not a version we have values of, ``compare_with`` is ``out``, or
            there are no runs at this rate.
    """
    paper = reference(against)
    if compare_with is not None and compare_with.resolve() == out.resolve():
        raise ValueError(f"compare_with is the sweep itself, {out}")
    # Before any work: a missing package is known now, not after the figures.
    for module in ("matplotlib", "plotly", "jinja2"):
        need(module)
    found, place = read(out, rate), place_of_folder(out, html)
    other = None
    if compare_with is not None:
        other = read(compare_with)
        if other.name == found.name:
            found, other = found.renamed(str(out)), other.renamed(str(compare_with))
    records = found.records
    summary = summarise(records, found.cells)
    orders = top_down(records)
    extra = {"gradient_ranks": truncation(records), "hessian": hessian(records)}
    extra |= {"llc": llc(records), "measures": other_measures(records), "depth": found.depth}
    live = found.tracked and (other is None or other.tracked)
    lines = tracked.lines(found) if live else tables.summary_lines(summary)

    look = {"every_run": every_run, "write": place.write, "processes": processes}
    drawn = drawing.draw_all(out / "figures", found, other, **look)
    written = claims.write(out / "tables", found.claims, place.write)
    written += rates.write(out / "tables", found.by_rate, place.write)
    kept = {"cells": found.cells, "top_down": _flat(orders)} | extra
    if other is not None:
        kept["compare_claims"] = compare.claims_table(found, other)
        kept["compare_cells"] = compare.side_by_side(found, other)
    written += [
        tables.write_csv(out / "tables" / f"{name}.csv", table, place.write)
        for name, table in kept.items()
        if name not in extra or not table.empty
    ]
    if live:
        text = tracked.render(found, other, drawn, against)
    else:
        text = page.render(found, other, lines, drawn, against)
    place.write(place.html, text.encode())
    result = tables.plain(
        {
            "generator": MARK,
            "name": found.name,
            "notes": drawn.notes,
            "against": against,
            "paper": paper,
            "claims": claims.as_json(found.claims),
            "settings": dict(shown_settings(found.settings)),
            "summary": summary,
            "lines": lines,
            "cells": found.cells,
            "top_down": orders,
            **extra,
            "compare": None if other is None else compare.as_json(found, other),
            "rates": rates.as_json(found.by_rate),
        }
    )
    place.write(out / "report.json", tables.json_bytes(result))
    return result | {"paths": drawn.result_paths(place.html, out, written)}


def _flat(orders: pd.DataFrame) -> pd.DataFrame:
    """The orders with the steps of all blocks in one text, first to last, separated by spaces."""
    steps = orders["half_steps"]
    return orders.assign(half_steps=[" ".join(f"{half:g}" for half in row) for row in steps])
