"""The whole report on benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geomfast.harness.folder import NAME, RECORDS
from geomfast.report.drawing import Drawn, OnPage, finished, keep
from geomfast.report.evaluations import page, tables
from geomfast.report.evaluations.data import Evaluations, read
from geomfast.report.evaluations.figures import FIGURES, MOST_ROWS
from geomfast.report.extras import need
from geomfast.report.place import MARK, place_of_folder
from geomfast.report.tables import json_bytes, plain


def has_behaviour(out: Path) -> bool:
    """Whether results of the harness were read into a folder."""
    return (out / NAME).is_file() or (out / RECORDS).is_dir()


def build(out: Path, html: Path | None = None, *, against: str = "v4") -> dict[str, Any]:
    """Write figures, tables, the page and its numbers.

    In a folder with records of geometry, which has a report of its own, they are ``behaviour.html``
    and ``behaviour-report.json``; in any other ``report.html`` and ``report.json``.

    Args:
        out: folder of ``geomfast behaviour``.
        html: where to write the page.
        against: version of arXiv:2602.15997 whose values are shown beside these.

    Returns:
        ``generator``, ``name``, ``notes``, ``lines`` (label, value and remark of the key numbers),
        ``claims``, ``tasks``, ``counts``, ``rises``, ``order``, ``suddenness``,
        ``checkpoints_needed``, ``precursors`` and ``early_geometry`` (rows), ``count_rows``
        (texts), as plain JSON values, and ``paths`` (``html``, ``json``, ``figures``, ``tables``).

    Raises:
        FileError: a file is in the way that geomfast did not write, or a link leads out of ``out``.
        RecordsError: the records cannot be read, or are of no benchmarks.
        MissingExtra: matplotlib or jinja2 is not installed.
    """
    for module in ("matplotlib", "jinja2"):
        need(module)
    found = read(out)
    alone = found.geometry.empty
    if html is None and not alone:
        html = out / "behaviour.html"
    place = place_of_folder(out, html)
    drawn = Drawn(write=place.write, notes=_notes(found))
    shown = _draw(drawn, out / "figures" / ("" if alone else "behaviour"), found)
    written = tables.write(out / "tables" / ("" if alone else "behaviour"), found, place.write)
    values = tables.as_json(found)
    place.write(place.html, page.render(found, shown, drawn.notes, against).encode())
    result: dict[str, Any] = plain(
        {"generator": MARK, "name": found.name, "notes": drawn.notes}
    ) | values  # fmt: skip
    result["count_rows"] = tables.count_rows(found)
    name = "report.json" if alone else "behaviour-report.json"
    place.write(out / name, json_bytes(result))
    paths = drawn.result_paths(place.html, out, written)
    return result | {"paths": paths | {"json": str(out / name)}}


def _notes(found: Evaluations) -> list[str]:
    """What the report leaves out, and why."""
    notes = []
    if unknown := [task for task, one in found.tasks.items() if one["chance"] is None]:
        notes.append(
            f"the rate of blind guesses is not known of {len(unknown)} tasks, the first "
            f"{unknown[0]}, which are not judged; geomfast behaviour --chance gives it"
        )
    accuracy = found.records[found.records["measure"] == "accuracy"]
    if lost := int(accuracy["stderr"].isna().sum()):
        notes.append(
            f"{lost:,} accuracies have neither a standard error nor a number of samples; no rise "
            "is told from them"
        )
    if early := int(found.rises["early"].sum()):
        notes.append(
            f"{early:,} curves of tasks are above chance from their first checkpoint, which is not "
            "step 0, and do not rise after it: they may have risen before, and have no place in "
            "the order"
        )
    if len(found.shown) > MOST_ROWS:
        notes.append(f"figures show {MOST_ROWS} of {len(found.shown)} tasks; the tables have all")
    if len(found.geometry):
        if absent := [run for run in found.runs if run not in set(found.geometry["run"])]:
            notes.append(f"no geometry of {', '.join(absent[:5])}")
        ways = found.beside["why"].value_counts()
        told = ", ".join(f"{n} by {why}" for why, n in ways.items())
        notes.append(f"geometry stands beside a task by the set of its name, or its kind: {told}")
        if found.geometry["run"].nunique() < 2:
            notes.append(
                "tasks of one kind share their geometry, so that the rises of one model are no "
                "independent evidence about it: intervals are too narrow"
            )
    return notes


def _draw(drawn: Drawn, folder: Path, found: Evaluations) -> list[OnPage]:
    shown = []
    for picture in FIGURES:
        figure = picture.draw(found)
        if figure is not None:
            caption = f"{found.name}; lm-evaluation-harness"
            shown.append(keep(drawn, [folder], finished(picture, figure, caption)))
    return shown
