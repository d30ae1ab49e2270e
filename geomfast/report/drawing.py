"""Draw all figures and write them as PNG and SVG."""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomfast.files import write_atomically
from geomfast.report import figures
from geomfast.report.compare import scale_pairs
from geomfast.report.figures import Picture
from geomfast.report.found import Found
from geomfast.report.names import one_line, slugs
from geomfast.report.settings import taken_how, tracked_how
from geomfast.report.style import RC, need
from geomfast.report.tables import Write

#: Larger ones, of thousands of line segments, are on the page as PNG; the file stays SVG.
LARGEST_SVG = 300_000
#: Dots per inch that are sharp in print, where figures are made smaller.
_DPI_ON_PAGE = 140
#: Settings of matplotlib that it asks for when a figure is written.
_WRITTEN_BY = ("svg.hashsalt", "text.parse_math")
#: Pictures that stand for a whole folder as well as for its first run.
_FIRST = ("collapse", "by-step")


@dataclass(frozen=True)
class OnPage:
    """A figure as the page holds it.

    Attributes:
        heading: what it shows.
        source: the picture itself as a ``data:`` address.
        inches: width and height.
        caption: how what it shows was measured.
    """

    heading: str
    source: str
    inches: tuple[float, float]
    caption: str


@dataclass(frozen=True)
class Drawn:
    """All figures.

    Attributes:
        paths: files written.
        overview: of all runs together.
        runs: by run, those of one run; empty for runs that were not drawn.
        compared: of two sweeps.
        notes: what was not drawn, and why.
        write: writes a file.
    """

    paths: list[Path] = field(default_factory=list)
    overview: list[OnPage] = field(default_factory=list)
    runs: dict[str, list[OnPage]] = field(default_factory=dict)
    compared: list[OnPage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    write: Write = write_atomically


def draw_all(
    folder: Path,
    found: Found,
    other: Found | None,
    *,
    every_run: bool,
    write: Write = write_atomically,
) -> Drawn:
    """Draw every figure for which there is something to draw, and write it under ``folder``.

    Of what a tracker recorded other figures are drawn than of a sweep, and of every run.

    Args:
        folder: ``OUT/figures``.
        found: the sweep.
        other: the one it is compared with.
        every_run: figures of every run; else those of the first run of every scale and task.
        write: writes a file.
    """
    drawn = Drawn(runs={run: [] for run in found.runs}, write=write)
    places = run_folders(found)
    live = found.tracked and other is None
    there = set(found.records["measure"])
    for picture in figures.TRACKED_OVERVIEW if live else figures.OVERVIEW:
        figure = picture.draw(found) if _of(picture, there) else None
        if figure is not None:
            caption = taken_how(found.records, found.settings, picture.measures)
            drawn.overview.append(keep(drawn, [folder], picture, figure, caption))
    cells = found.cells
    first = set(cells.drop_duplicates(["scale", "task"])["run"])
    by_run = dict(list(found.records.groupby("run", sort=False)))
    for index, run in enumerate(found.runs):
        if not (every_run or live or run in first):
            continue
        rows, table = by_run[run], cells[cells["run"] == run]
        place = folder / places[run] if len(found.runs) > 1 else folder
        for picture in figures.TRACKED if live else figures.FIGURES:
            figure = picture.draw(rows, table) if _of(picture, there) else None
            if figure is None:
                continue
            caption = taken_how(rows, found.settings, picture.measures)
            if live:
                caption = f"{tracked_how(found.settings, run, rows)}; {caption}"
            # The first picture of the first run is that of the sweep as well.
            top = index == 0 and place != folder and picture.name in _FIRST
            shown = keep(drawn, [place, folder] if top else [place], picture, figure, caption)
            if live or run in first:
                drawn.runs[run].append(shown)
    if other is not None:
        _draw_both(drawn, folder, found, other)
    return drawn


def run_folders(found: Found) -> dict[str, str]:
    """Names of the folders of the figures of each run."""
    return slugs(found.runs)


def _of(picture: Picture, there: Container[str]) -> bool:
    """Whether any of the measures that a picture shows is there."""
    return not picture.measures or any(name in there for name in picture.measures)


def _draw_both(drawn: Drawn, folder: Path, found: Found, other: Found) -> None:
    """Figures of two sweeps, one of every kind for each pair of scales."""
    pairs = scale_pairs(found, other)
    places = slugs("-".join(dict.fromkeys(scales)) for scales in pairs)
    for scales in pairs:
        place, words = (mark.join(dict.fromkeys(scales)) for mark in ("-", " and "))
        for picture in figures.COMPARED:
            figure = picture.draw(found, other, scales)
            if figure is None:
                continue
            captions = [
                f"{sweep.name}: {taken_how(sweep.records, sweep.settings, picture.measures)}"
                for sweep in (found, other)
            ]
            named = picture._replace(
                name=f"compare-{picture.name}-{places[place]}",
                heading=f"{picture.heading}, {words}",
            )
            drawn.compared.append(keep(drawn, [folder], named, figure, ". ".join(captions)))


def keep(drawn: Drawn, folders: list[Path], picture: Picture, figure: Any, caption: str) -> OnPage:
    """Write a figure in both formats, with its caption in the file, and return it for the page.

    Args:
        drawn: its ``paths`` are added to.
        folders: where to write the files.
        picture: what is drawn.
        figure: the drawing.
        caption: how what it shows was measured.
    """
    caption = one_line(caption)
    content = {kind: as_bytes(figure, kind, caption) for kind in ("png", "svg")}
    for kind, folder in itertools.product(content, folders):
        drawn.paths.append(folder / f"{picture.name}.{kind}")
        drawn.write(drawn.paths[-1], content[kind])
    width, height = figure.get_size_inches()
    source = _address(figure, content["svg"].decode())
    return OnPage(picture.heading, source, (float(width), float(height)), caption)


def as_bytes(figure: Any, kind: str, caption: str = "", dpi: int = 100) -> bytes:
    """A figure as the content of a ``png`` or ``svg`` file."""
    sink = io.BytesIO()
    # No date, so that the same records give the same file.
    metadata = {"Description": caption} | ({"Date": None} if kind == "svg" else {})
    with need("matplotlib").rc_context({name: RC[name] for name in _WRITTEN_BY}):
        figure.savefig(sink, format=kind, dpi=dpi, metadata=metadata)
    return sink.getvalue()


def _address(figure: Any, svg: str) -> str:
    """A figure as the source of an image: as SVG, unless that were larger than it need be."""

    def shorten(match: re.Match[str]) -> str:
        return re.sub(r"(\.\d\d)\d+", r"\1", match[0])

    # From the first tag on, as an XML declaration has no place inside a page, and with path
    # coordinates cut to a hundredth of a point.
    short = re.sub(r'\bd="[^"]*"', shorten, svg[svg.index("<svg") :]).encode()
    if len(short) <= LARGEST_SVG:
        return "data:image/svg+xml;base64," + base64.b64encode(short).decode()
    png = as_bytes(figure, "png", dpi=_DPI_ON_PAGE)
    return "data:image/png;base64," + base64.b64encode(png).decode()
