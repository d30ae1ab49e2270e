"""One self-contained HTML page: opens offline, loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geomfast.files import printable
from geomfast.report import claims, tables
from geomfast.report.chart import chart_data, script_json
from geomfast.report.data import ReportData
from geomfast.report.drawing import Drawn, OnPage, run_folders
from geomfast.report.extras import need
from geomfast.report.place import MARK
from geomfast.report.settings import calls, differences, shown_settings
from geomfast.testbed.tasks.names import task_level

#: How large figures are shown; the widest then just fill the page.
_PIXELS_PER_INCH = 86
#: Columns of :func:`geomfast.analysis.cells` of which one is known wherever there is a trajectory.
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
        version: of the paper whose values stand beside ours.

    Raises:
        MissingExtra: jinja2 or plotly is not installed.
    """
    Markup = need("markupsafe").Markup
    by_run = {str(run): rows for run, rows in found.cells.groupby("run", sort=False)}
    orders = found.orders
    with_layers = {run for run, pictures in drawn.runs.items() if pictures}
    sweeps = [found] if other is None else [found, other]
    judged = {sweep.name: claims.as_json(sweep.claims) for sweep in sweeps}
    return template("page.html.j2").render(
        title=_title(found),
        sweeps=[
            {"name": x.name, "runs": _runs_line(x), "tally": claims.tally(judged[x.name])}
            for x in sweeps
        ],
        claims=_claims(judged, version),
        marks=claims.MARKS,
        runs=found.runs,
        notes=drawn.notes,
        first_run=found.runs[0],
        folders=run_folders(found),
        lines=lines,
        # Sections that a series of checkpoints with neither RankMe nor behaviour goes without.
        trajectories=bool(found.cells[list(_TRAJECTORIES)].notna().any(axis=None)),
        collapse_head=[heading for _, heading, _ in tables.COLLAPSE[:6]],
        collapse={run: _rows(rows, tables.COLLAPSE[:6]) for run, rows in by_run.items()},
        emergence={run: _emergence(rows) for run, rows in by_run.items()},
        orders={run: _orders(orders[orders["run"] == run]) for run in found.runs},
        overview=on_page(drawn.overview),
        figures={run: on_page(pictures) for run, pictures in drawn.runs.items()},
        compared=on_page(drawn.compared),
        differences=differences(found.settings, other.settings) if other else [],
        settings=shown_settings(found.settings),
        version=version,
        measured=measured(found.records),
        plotly=Markup(need("plotly.offline").get_plotlyjs()),
        data=Markup(script_json(chart_data(found.records, found.cells, with_layers))),
    )


def template(name: str) -> Any:
    """One of the page templates.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    jinja2 = need("jinja2")
    environment = jinja2.Environment(
        # Of text that is not our own, what no page can hold or what would hide itself.
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


def _claims(
    judged: Mapping[str, Sequence[Mapping[str, Any]]], version: str
) -> list[dict[str, Any]]:
    """A row per claim: what is claimed, what the paper has, and each sweep's texts."""
    rows = []
    for claim in zip(*judged.values(), strict=True):
        sides = [
            claims.row(side, version) | {"sweep": name}
            for name, side in zip(judged, claim, strict=True)
        ]
        same = len({side["verdict"] for side in sides}) == 1
        rows.append(sides[0] | {"sides": sides, "same": same})
    return rows


def measured(records: pd.DataFrame) -> list[tuple[str, str]]:
    """Per measure: how many values, on how many samples, computed how."""
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


def on_page(pictures: Sequence[OnPage]) -> list[dict[str, Any]]:
    """Heading, source, caption, width and shape of figures; text is as large in all of them."""
    return [
        {
            "heading": picture.heading,
            "source": picture.source,
            "caption": picture.caption,
            "width": f"{_PIXELS_PER_INCH * picture.inches[0]:.0f}px",
            "tall": picture.inches[1] > picture.inches[0],
        }
        for picture in pictures
    ]
