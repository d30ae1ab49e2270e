"""The whole report of the populations in a folder or a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geomfast.analysis.population.geometry import GEOMETRY
from geomfast.analysis.population.summary import BOOTSTRAP, bootstrap_of
from geomfast.report.drawing import Drawn, OnPage, finished, keep
from geomfast.report.extras import need
from geomfast.report.figures import Picture
from geomfast.report.place import MARK, place_of_folder, place_of_table
from geomfast.report.population import page, tables
from geomfast.report.population.data import MOST_SCALES, Population, Populations, read
from geomfast.report.population.figures import FIGURES
from geomfast.report.settings import shown_settings, taken_how
from geomfast.report.tables import json_bytes, plain

#: Most populations of a report that are drawn, as each takes seconds.
MOST_DRAWN = 4
#: Most populations with folders of tables; of more there is one file of each kind.
MOST_FOLDERS = 50


def build(path: Path, html: Path | None = None, *, success: float | None = None) -> dict[str, Any]:
    """Write figures, tables, report.json and report.html.

    They go to the folder of the population itself; for a table, to a folder beside it with the
    table's name without suffix, or with ``-report`` after it where that holds other files.  Only
    files that geomfast wrote are overwritten.

    Of more than :data:`MOST_DRAWN` populations the first are drawn, and of more than
    :data:`MOST_FOLDERS` the tables of all are together; the page says so.

    Args:
        path: folder of ``geomfast population``, or a table of outcomes (CSV or Parquet).
        html: where to write the page; ``report.html`` in that folder when None.
        success: score from which a member has succeeded; see
            :func:`geomfast.report.population.data.read` for the default.

    Returns:
        ``generator``, ``name``, ``notes`` (what was left out, and where the page is if not in the
        usual place), ``settings``, ``populations`` (of each its numbers, as in
        report.json) and ``paths`` (``html``, ``json``, ``figures``, ``tables``), as plain JSON
        values.

    Raises:
        FileNotFoundError: no such file or folder, or no records in it.
        FileError: a file is in the way that geomfast did not write, or a link leads out of the
            folder.
        RecordsError: the records cannot be read, or are not of populations.
        ValueError: ``success`` is not a number.
        MissingExtra: matplotlib or jinja2 is not installed.
    """
    if success is not None and not math.isfinite(success):
        raise ValueError(f"success must be a number, got {success}")
    # Before any work: a missing package is known now, not after the figures.
    for module in ("matplotlib", "jinja2"):
        need(module)
    found = read(path, success)
    place = (place_of_table if path.is_file() else place_of_folder)(path, html)
    out = place.root
    drawn = Drawn(write=place.write, notes=[place.note] if place.note else [])
    drawn.notes.extend(_left_out(found))
    shown = {population.slug: [] for population in found.each}
    for population in found.each[:MOST_DRAWN]:
        shown[population.slug] = _draw(drawn, out, found, population)
    if len(found.each) > MOST_FOLDERS:
        written = tables.write_together(out / "tables", found.each, place.write)
    else:
        written = []
        for population in found.each:
            folder = _folder(out / "tables", found, population)
            written += tables.write(folder, population, place.write)
    values = [tables.as_json(population) for population in found.each]
    place.write(place.html, page.render(found, values, shown, drawn.notes).encode())
    result: dict[str, Any] = plain(
        {
            "generator": MARK,
            "name": found.name,
            "notes": drawn.notes,
            "settings": dict(shown_settings(found.settings)),
        }
    )
    result["populations"] = values
    place.write(out / "report.json", json_bytes(result))
    return result | {"paths": drawn.result_paths(place.html, out, written)}


def _left_out(found: Populations) -> list[str]:
    """Notes on what large populations leave out."""
    notes = []
    if len(found.each) > MOST_DRAWN:
        notes.append(
            f"figures are of the first {MOST_DRAWN} of {len(found.each):,} tasks and lengths; the "
            "tables are of all"
        )
    if len(found.each) > MOST_FOLDERS:
        notes.append(
            "tables of all tasks and lengths are together, one file of each kind, without the "
            "curves of single seeds"
        )
    most = max(len(population.scales) for population in found.each)
    if most > MOST_SCALES:
        notes.append(
            f"figures show {MOST_SCALES} of up to {most:,} scales, evenly spaced; the tables have "
            "all"
        )
    notes += _different_tests(found.settings)
    if not all(population.ordered for population in found.each):
        notes.append(
            "points that differ in several things, or in kind, have no order: what compares "
            "neighbours (distances, unlocking, curves of single seeds) is left out"
        )
    least = min(bootstrap_of(population.table) for population in found.each)
    if least < BOOTSTRAP:
        notes.append(f"so many members: intervals rest on {least:,} bootstrap samples or more")
    return notes


def _different_tests(settings: Mapping[str, Any]) -> list[str]:
    """A note where bases were tested on different examples: those beyond a context are skipped."""
    recipes = settings.get("recipes")
    recipes = recipes if isinstance(recipes, dict) else {}
    counts = {
        name: told["examples"][1]
        for name, told in recipes.items()
        if isinstance(told, dict) and isinstance(told.get("examples"), list)
    }
    if len(set(counts.values())) < 2:
        return []
    texts = ", ".join(f"{name} on {count:,}" for name, count in counts.items())
    return [f"bases are tested on different examples, those that fit into their context: {texts}"]


def _folder(root: Path, found: Populations, population: Population) -> Path:
    """The folder of one population's files, its own if there are several."""
    return root / population.slug if len(found.each) > 1 else root


def _draw(drawn: Drawn, out: Path, found: Populations, population: Population) -> list[OnPage]:
    """The figures of a population for which there is something to draw."""
    shown, folder = [], _folder(out / "figures", found, population)
    part = population.to_draw()
    for picture in FIGURES:
        figure = picture.draw(part)
        if figure is None:
            continue
        caption = "; ".join([f"{found.name}, {population.name}", *_how(found, population, picture)])
        shown.append(keep(drawn, [folder], finished(picture, figure, caption)))
    return shown


def _how(found: Populations, population: Population, picture: Picture) -> list[str]:
    """Samples and settings of training and measuring, for the caption of a figure."""
    rows = population.records
    if rows is None:
        return []
    shared = dict(shown_settings(found.settings)).get("settings")
    trained = [f"training: {shared}"] if shared else []
    if GEOMETRY not in picture.measures:
        n = ", ".join(f"{n:,.0f}" for n in sorted(population.table["n"].dropna().unique()))
        return [f"n = {n} samples a score", *trained]
    last = rows[(rows["task"] == population.task) & (rows["step"] == rows["step"].max())]
    return [taken_how(last, found.settings, picture.measures), *trained]
