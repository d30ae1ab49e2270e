"""Draw all figures and write them as PNG and SVG."""

from __future__ import annotations

import base64
import gc
import io
import itertools
import multiprocessing
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from geomfast.files import write_atomically
from geomfast.report import figures
from geomfast.report.compare import scale_pairs
from geomfast.report.data import ReportData
from geomfast.report.extras import need
from geomfast.report.figures import Picture
from geomfast.report.names import one_line, slugs
from geomfast.report.settings import taken_how, tracked_how
from geomfast.report.style import RC
from geomfast.report.tables import Write
from geomfast.runs.executors.orphans import end_with_parent

#: Larger ones, of thousands of line segments, are on the page as PNG; the file stays SVG.
LARGEST_SVG = 300_000
#: Dots per inch of PNG files, and of those on the page, sharp in print where they are made smaller.
_DPI, _DPI_ON_PAGE = 100, 140
#: Settings of matplotlib that it asks for when a figure is written.
_WRITTEN_BY = ("svg.hashsalt", "text.parse_math")
#: Runs from which on it is worth the seconds that another process takes to begin.
_WORTH_A_PROCESS = 3
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
class Finished:
    """A figure as the contents of its files, and as on the page.

    Attributes:
        name: of the files.
        content: by kind, ``png`` and ``svg``.
        shown: on the page.
    """

    name: str
    content: dict[str, bytes]
    shown: OnPage


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

    def result_paths(self, html: Path, out: Path, tables: Iterable[Path]) -> dict[str, Any]:
        """Where the parts of a report are, as its result says it."""
        found: dict[str, Any] = {"html": str(html), "json": str(out / "report.json")}
        named = {"figures": self.paths, "tables": tables}
        return found | {name: [str(path) for path in paths] for name, paths in named.items()}


def draw_all(
    folder: Path,
    found: ReportData,
    other: ReportData | None,
    *,
    every_run: bool,
    write: Write = write_atomically,
    processes: int = 1,
) -> Drawn:
    """Draw every figure for which there is something to draw, and write it under ``folder``.

    Of what a tracker recorded other figures are drawn than of a sweep, and of every run.

    Args:
        folder: ``OUT/figures``.
        found: the sweep.
        other: the one it is compared with.
        every_run: figures of every run; else those of the first run of every scale and task.
        write: writes a file.
        processes: at most so many draw several runs, beside this one.
    """
    drawn = Drawn(runs={run: [] for run in found.runs}, write=write)
    places = run_folders(found)
    live = found.tracked and other is None
    there = set(found.records["measure"])
    cells = found.cells
    first = set(cells.drop_duplicates(["scale", "task"])["run"])
    by_run = dict(list(found.records.groupby("run", sort=False)))
    runs = [run for run in found.runs if every_run or live or run in first]
    jobs = [
        (run, by_run[run], cells[cells["run"] == run], found.settings, live, there) for run in runs
    ]
    with _mapping(min(processes, len(jobs)) if len(jobs) >= _WORTH_A_PROCESS else 1) as mapped:
        of_runs = mapped(_of_run, jobs)
        for picture in figures.TRACKED_OVERVIEW if live else figures.OVERVIEW:
            with _no_garbage():
                figure = picture.draw(found) if has_data(picture, there) else None
                if figure is not None:
                    caption = taken_how(found.records, found.settings, picture.measures)
                    drawn.overview.append(keep(drawn, [folder], finished(picture, figure, caption)))
        for run, pictures in zip(runs, of_runs, strict=True):
            place = folder / places[run] if len(found.runs) > 1 else folder
            for picture in pictures:
                # The first picture of the first run is that of the sweep as well.
                top = run == found.runs[0] and place != folder and picture.name in _FIRST
                shown = keep(drawn, [place, folder] if top else [place], picture)
                if live or run in first:
                    drawn.runs[run].append(shown)
    if other is not None:
        _draw_both(drawn, folder, found, other)
    return drawn


@contextmanager
def _mapping(processes: int) -> Iterator[Callable[..., Iterator[list[Finished]]]]:
    """``map``, in so many processes beside this one if that is more than one."""
    if processes < 2:
        yield map
        return
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=end_with_parent
    )
    try:
        yield pool.map
    except BrokenProcessPool as error:
        raise OSError(
            "a process that draws figures was killed, perhaps for want of memory"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Look for no garbage: a figure is many objects, of which none can go before it is written.

    That is a sixth of the time that it takes to draw it.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


@_no_garbage()
def _of_run(
    job: tuple[str, pd.DataFrame, pd.DataFrame, Mapping[str, Any], bool, Container[str]],
) -> list[Finished]:
    """The figures of one run: its name, records and cells, the settings, and what is there."""
    run, rows, table, settings, live, there = job
    drawn = []
    for picture in figures.TRACKED if live else figures.FIGURES:
        figure = picture.draw(rows, table) if has_data(picture, there) else None
        if figure is None:
            continue
        caption = taken_how(rows, settings, picture.measures)
        if live:
            caption = f"{tracked_how(settings, run, rows)}; {caption}"
        drawn.append(finished(picture, figure, caption))
    return drawn


def run_folders(found: ReportData) -> dict[str, str]:
    """Names of the folders of the figures of each run."""
    return slugs(found.runs)


def has_data(picture: Picture, there: Container[str]) -> bool:
    """Whether any of the measures that a picture shows is there."""
    return not picture.measures or any(name in there for name in picture.measures)


def _draw_both(drawn: Drawn, folder: Path, found: ReportData, other: ReportData) -> None:
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
            both = finished(named, figure, ". ".join(captions))
            drawn.compared.append(keep(drawn, [folder], both))


def keep(drawn: Drawn, folders: list[Path], figure: Finished) -> OnPage:
    """Write a figure into folders, note its paths, and return it for the page."""
    for kind, folder in itertools.product(figure.content, folders):
        drawn.paths.append(folder / f"{figure.name}.{kind}")
        drawn.write(drawn.paths[-1], figure.content[kind])
    return figure.shown


def finished(picture: Picture, figure: Any, caption: str) -> Finished:
    """A drawing in both formats and for the page, with its caption in the files.

    Args:
        picture: what is drawn.
        figure: the drawing.
        caption: how what it shows was measured.
    """
    caption = one_line(caption)
    svg = as_bytes(figure, "svg", caption)
    small = _for_page(svg)
    fits = len(small) <= LARGEST_SVG
    png = as_bytes(figure, "png", caption, dpi=_DPI if fits else _DPI_ON_PAGE)
    kind, source = ("svg+xml", small) if fits else ("png", png)
    address = f"data:image/{kind};base64,{base64.b64encode(source).decode()}"
    width, height = figure.get_size_inches()
    shown = OnPage(picture.heading, address, (float(width), float(height)), caption)
    return Finished(picture.name, {"png": png, "svg": svg}, shown)


def as_bytes(figure: Any, kind: str, caption: str = "", dpi: int = _DPI) -> bytes:
    """A figure as the content of a ``png`` or ``svg`` file."""
    sink = io.BytesIO()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if not axis.label.get_text():
            axis.set_label_coords(0, 0)  # or matplotlib measures every tick to place no label
    # No date, so that the same records give the same file.
    metadata = {"Description": caption} | ({"Date": None} if kind == "svg" else {})
    with need("matplotlib").rc_context({name: RC[name] for name in _WRITTEN_BY}):
        figure.savefig(sink, format=kind, dpi=dpi, metadata=metadata)
    return sink.getvalue()


def _for_page(svg: bytes) -> bytes:
    """A figure without what the page has no place for, and no larger than it need be."""

    def shorten(match: re.Match[str]) -> str:
        return re.sub(r"(\.\d\d)\d+", r"\1", match[0])

    # From the first tag on, as an XML declaration has no place inside a page, and with path
    # coordinates cut to a hundredth of a point.
    text = svg.decode()
    return re.sub(r'\bd="[^"]*"', shorten, text[text.index("<svg") :]).encode()
