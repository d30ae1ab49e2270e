"""Figures of a report, drawn and written as PNG and SVG."""

from __future__ import annotations

import base64
import gc
import io
import itertools
import multiprocessing
import re
import urllib.parse
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

#: A larger SVG, of thousands of line segments, is a PNG on the page; the file stays SVG.
LARGEST_SVG = 400_000
#: Dots per inch of PNG files, and of those on the page, sharp in print where they are made smaller.
_DPI, _DPI_ON_PAGE = 100, 140
#: Fonts of the same letter widths, for readers without the one that matplotlib brings along.
_FONTS = "'DejaVu Sans', Verdana, sans-serif"
#: What the page has no use for in an SVG: comments, metadata, names of groups, line breaks, and
#: digits of coordinates beyond a tenth of a point.
_NOT_ON_THE_PAGE = (
    (r"<metadata>.*?</metadata>|<!--.*?-->", ""),
    (rf"font-family: {_FONTS}(; )?", ""),
    (r'<g id="[^"]*"', "<g"),
    (r' transform="rotate\(-0 [^"]*"', ""),
    (r'\b(?:d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0])),
    (r"\s+", " "),
    (r"> <", "><"),
)
#: Settings of matplotlib that it asks for when a figure is written.
_WRITTEN_BY = ("svg.hashsalt", "svg.fonttype", "text.parse_math")
#: Number of runs from which on processes are worth the seconds that they take to start.
_WORTH_A_PROCESS = 3
#: Figures of the first run that are also written for the whole folder.
_FIRST = ("collapse", "by-step")


@dataclass(frozen=True)
class OnPage:
    """A figure as the page holds it.

    Attributes:
        heading: what it shows.
        source: the picture itself as a ``data:`` address without quotation marks.
        inches: width and height.
        caption: how what it shows was measured.
        see: what to look for.
        alt: the texts over the panels, for readers who do not see the picture.
    """

    heading: str
    source: str
    inches: tuple[float, float]
    caption: str
    see: str
    alt: str


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
        missing: headings of the figures for which the records have too little.
        notes: what was left out, and why.
        write: writes a file.
    """

    paths: list[Path] = field(default_factory=list)
    overview: list[OnPage] = field(default_factory=list)
    runs: dict[str, list[OnPage]] = field(default_factory=dict)
    compared: list[OnPage] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
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

    Records of a tracker have other figures than a sweep, drawn of every run.

    Args:
        folder: ``OUT/figures``.
        found: the sweep.
        other: the one it is compared with.
        every_run: figures of every run; else those of the first run of every scale and task.
        write: writes a file.
        processes: most processes that draw several runs, beside this one.
    """
    drawn = Drawn(runs={run: [] for run in found.runs}, write=write)
    places = run_folders(found)
    live = found.tracked and (other is None or other.tracked)
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
        overview = figures.TRACKED_OVERVIEW if live else figures.OVERVIEW
        if found.by_rate is None:  # and none of several rates is missing
            overview = [picture for picture in overview if picture is not figures.BY_RATE]
        for picture in overview:
            with _no_garbage():
                figure = draw(picture, there, found)
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
    shown = {figure.heading for some in [drawn.overview, *drawn.runs.values()] for figure in some}
    wanted = [*overview, *(figures.TRACKED if live else figures.FIGURES)]
    drawn.missing.extend(dict.fromkeys(p.heading for p in wanted if p.heading not in shown))
    return drawn


@contextmanager
def _mapping(processes: int) -> Iterator[Callable[..., Iterator[list[Finished]]]]:
    """``map``, in processes beside this one if there is to be more than one."""
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
    """Pause garbage collection, which takes a sixth of the time of drawing and frees nothing."""
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
    """The figures of one run, of its name, records, cells, settings, kind and measures."""
    run, rows, table, settings, live, there = job
    drawn = []
    for picture in figures.TRACKED if live else figures.FIGURES:
        figure = draw(picture, there, rows, table)
        if figure is None:
            continue
        caption = taken_how(rows, settings, picture.measures)
        if live:
            caption = f"{tracked_how(settings, run, rows)}; {caption}"
        drawn.append(finished(picture, figure, caption))
    return drawn


def run_folders(found: ReportData) -> dict[str, str]:
    """The folder name of the figures of each run."""
    return slugs(found.runs)


def draw(picture: Picture, there: Container[str], *data: Any) -> Any:
    """A figure, or None where it would show nothing.

    Args:
        picture: what to draw.
        there: names of the measures in the records.
        data: what its function takes.
    """
    if picture.measures and not any(name in there for name in picture.measures):
        return None
    figure = picture.draw(*data)
    return figure if figure and any(axes.has_data() for axes in figure.axes) else None


def _draw_both(drawn: Drawn, folder: Path, found: ReportData, other: ReportData) -> None:
    """Draw the figures of two sweeps, one of each kind per pair of scales."""
    pairs = scale_pairs(found, other)
    places = slugs("-".join(dict.fromkeys(scales)) for scales in pairs)
    for scales in pairs:
        place, words = (mark.join(dict.fromkeys(scales)) for mark in ("-", " and "))
        both_tracked = found.tracked and other.tracked
        for picture in figures.TRACKED_COMPARED if both_tracked else figures.COMPARED:
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
    """Write a figure into folders, list its paths, and return it for the page."""
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
    address = _for_page(svg.decode())
    fits = len(address) <= LARGEST_SVG
    png = as_bytes(figure, "png", caption, dpi=_DPI if fits else _DPI_ON_PAGE)
    if not fits:
        address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    width, height = map(float, figure.get_size_inches())
    alt = ". ".join(one_line(" ".join(text.get_text().split())) for text in figure.texts)
    shown = OnPage(picture.heading, address, (width, height), caption, picture.see, alt)
    return Finished(picture.name, {"png": png, "svg": svg}, shown)


def as_bytes(figure: Any, kind: str, caption: str = "", dpi: int = _DPI) -> bytes:
    """A figure as the content of a ``png`` or ``svg`` file."""
    sink = io.BytesIO()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if not axis.label.get_text():
            # Else matplotlib measures every tick to place an empty label.
            axis.set_label_coords(0, 0)
    # No date, so that the same records give the same file.
    metadata = {"Description": caption} | ({"Date": None} if kind == "svg" else {})
    with need("matplotlib").rc_context({name: RC[name] for name in _WRITTEN_BY}):
        figure.savefig(sink, format=kind, dpi=dpi, metadata=metadata)
    if kind == "svg":
        own = b"font-family: 'DejaVu Sans'"
        return sink.getvalue().replace(own, f"font-family: {_FONTS}".encode())
    return sink.getvalue()


def _for_page(svg: str) -> str:
    """The address of an SVG that holds all of it, for an attribute in quotation marks."""
    text = svg[svg.index("<svg") :]
    for pattern, new in _NOT_ON_THE_PAGE:
        text = re.sub(pattern, new, text, flags=re.DOTALL)
    text = re.sub("<[^>]*>", lambda tag: tag[0].replace('"', "'"), text)
    text = text.replace("<svg ", f'<svg font-family="{_FONTS}" ', 1)
    # Of the characters that this leaves, an address may hold all but % and #, and an attribute
    # all but " and &; a page that needs no network has no http: either.
    safe = urllib.parse.quote(text, safe=" !$'()*+,-./:;<=>?@[]^_`{|}~")
    return f"data:image/svg+xml,{safe.replace('http:', 'http%3A')}"
