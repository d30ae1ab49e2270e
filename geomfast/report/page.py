"""One self-contained HTML page, which opens offline and loads nothing."""

from __future__ import annotations

import base64
import functools
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.claim import NOT_ENOUGH
from geomfast.files import printable
from geomfast.report import claims, rates, tables
from geomfast.report.chart import chart_data, script_json
from geomfast.report.data import ReportData
from geomfast.report.drawing import Drawn, OnPage, run_folders
from geomfast.report.extras import need
from geomfast.report.place import MARK
from geomfast.report.settings import calls, differences, readable_settings
from geomfast.testbed.tasks.names import task_level

#: Size of figures on the page, of which the widest just fill it.
_PIXELS_PER_INCH = 86
#: Columns of :func:`geomfast.analysis.cells` of which every trajectory has at least one.
_TRAJECTORIES = ("initial", "final_accuracy", "final_logprob")


def render(
    found: ReportData,
    other: ReportData | None,
    lines: list[tuple[str, str, str]],
    drawn: Drawn,
    version: str,
) -> str:
    """The page as text.

    Args:
        found: the sweep.
        other: the one it is compared with, if there is one.
        lines: label, value and remark of the key numbers.
        drawn: the figures.
        version: of the paper whose values are shown beside these.

    Raises:
        MissingExtra: jinja2 or plotly is not installed.
    """
    by_run = {str(run): rows for run, rows in found.cells.groupby("run", sort=False)}
    orders = found.orders
    with_layers = {run for run, pictures in drawn.runs.items() if pictures}
    sweeps = [found] if other is None else [found, other]
    judged = {sweep.name: claims.as_json(sweep.claims) for sweep in sweeps}
    # Without trajectories, as of checkpoints with other measures, some sections are left out.
    trajectories = bool(found.cells[list(_TRAJECTORIES)].notna().any(axis=None))
    return template("page.html.j2").render(
        title=_title(found),
        sweeps=[
            {"name": x.name, "runs": _runs_line(x), "tally": claims.tally(judged[x.name])}
            for x in sweeps
        ],
        claims=claim_rows(judged, version),
        marks=claims.MARKS,
        rates=rates.for_page(found.by_rate),
        runs=found.runs,
        notes=drawn.notes,
        missing=drawn.missing,
        first_run=found.runs[0],
        folders=run_folders(found),
        lines=lines,
        trajectories=trajectories,
        collapse_head=[heading for _, heading, _ in tables.COLLAPSE[:6]],
        collapse={run: _rows(rows, tables.COLLAPSE[:6]) for run, rows in by_run.items()},
        emergence={run: _emergence(rows) for run, rows in by_run.items()},
        depth=[_depth(row) for row in found.depth.to_dict("records")],
        orders={run: _orders(orders[orders["run"] == run]) for run in found.runs},
        overview=on_page(drawn.overview),
        figures={run: on_page(pictures) for run, pictures in drawn.runs.items()},
        compared=on_page(drawn.compared),
        differences=differences(found.settings, other.settings) if other else [],
        settings=readable_settings(found.settings),
        version=version,
        measured=measured(found.records),
        plotly=library() if trajectories else "",
        data=as_is(script_json(chart_data(found.records, found.cells, with_layers))),
    )


@functools.cache
def library() -> str:
    """Plotly's code, compressed and in letters, which the page unpacks.

    Raises:
        MissingExtra: plotly is not installed.
    """
    code = need("plotly.offline").get_plotlyjs().encode()
    return base64.b64encode(gzip.compress(code, mtime=0)).decode()


def as_is(text: str) -> Any:
    """Text that templates do not escape."""
    return need("markupsafe").Markup(text)


def template(name: str) -> Any:
    """One of the page templates.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    jinja2 = need("jinja2")
    environment = jinja2.Environment(
        # Text of files may have characters that a page cannot hold, or that are invisible.
        finalize=lambda value: printable(value) if type(value) is str else value,
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name, globals={"generator": MARK})


def _title(found: ReportData) -> str:
    presets = [str(call.get("preset", "")) for call in calls(found.settings)]
    name = f"geomfast: {', '.join(found.scales)}"
    return name + (f" ({presets[0]} preset)" if any(presets[:1]) else "")


def _runs_line(found: ReportData) -> str:
    steps = found.records.groupby("run")["step"]
    seeds = ", ".join(str(seed) for seed in sorted(set(found.cells["seed"])))
    return (
        f"{len(found.runs)} run{'s' * (len(found.runs) > 1)} of {', '.join(found.scales)}; "
        f"seeds {seeds}; "
        f"{len(found.cells[['task', 'level']].drop_duplicates())} task-levels; "
        f"{int(steps.max().max()):,} steps, {int(steps.nunique().max())} checkpoints"
    )


def claim_rows(
    judged: Mapping[str, Sequence[Mapping[str, Any]]], version: str
) -> list[dict[str, Any]]:
    """A row per claim: its texts, those of each sweep, and whether any sweep decides it."""
    rows = []
    for claim in zip(*judged.values(), strict=True):
        sides = [
            claims.row(side, version) | {"sweep": name}
            for name, side in zip(judged, claim, strict=True)
        ]
        same = len({side["verdict"] for side in sides}) == 1
        decided = any(side["verdict"] != NOT_ENOUGH for side in sides)
        rows.append(sides[0] | {"sides": sides, "same": same, "decided": decided})
    return rows


def measured(records: pd.DataFrame) -> list[tuple[str, str]]:
    """Number of values, samples and backends of every measure."""
    found = []
    for measure, rows in records.groupby("measure"):
        n = ", ".join(f"{v:,}" for v in sorted({int(n) for n in rows["n"].dropna().unique()}))
        ran = sorted({*rows["backend"].dropna().unique(), *rows["device"].dropna().unique()})
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


def _depth(row: Mapping[Any, Any]) -> list[str]:
    """Texts of a row of :func:`geomfast.analysis.depth_summary`."""
    interval = claims.interval_text(row["low"], row["high"], "share")
    share = claims.quantity(row["last_half_first"], "share") + (
        f" ({interval})" if interval else ""
    )
    names = ("together", "last_half_first_but_first", "first_block_before_second")
    return [
        f"{row['blocks']} ({row['scales']})",
        f"{row['by']} step",
        f"{row['n']:,}",
        share,
        *(claims.quantity(row[name], "share") for name in names),
        tables.number(row["tau"], "–"),
        tables.number(row["tau_but_first"], "–"),
    ]


def on_page(pictures: Sequence[OnPage]) -> list[dict[str, Any]]:
    """What templates show of figures, in sizes at which the text of all is equally large."""
    return [
        {
            **{name: getattr(picture, name) for name in ("heading", "caption", "see", "alt")},
            "source": as_is(picture.source),
            "width": round(_PIXELS_PER_INCH * picture.inches[0]),
            "height": round(_PIXELS_PER_INCH * picture.inches[1]),
            "tall": picture.inches[1] > picture.inches[0],
        }
        for picture in pictures
    ]
