"""The page on benchmarks, one file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence

from geomfast.report import claims
from geomfast.report.drawing import OnPage
from geomfast.report.evaluations import tables
from geomfast.report.evaluations.data import Evaluations
from geomfast.report.page import claim_rows, on_page, template


def render(
    found: Evaluations, figures: Sequence[OnPage], notes: Sequence[str], version: str
) -> str:
    """The page as text.

    Args:
        found: the benchmarks.
        figures: in their order.
        notes: on what was left out.
        version: of the paper whose values are shown beside these.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    judged = {found.name: claims.as_json(found.claims)}
    rises_head, rises = tables.rise_rows(found)
    kinds, swaps = tables.kind_rows(found), tables.swap_rows(found)
    return template("evaluations.html.j2").render(
        title=f"geomfast: benchmarks over training, {found.name}",
        notes=notes,
        missing=[],
        lines=tables.key_lines(found),
        models=", ".join(found.labels[run] for run in found.runs),
        checkpoints=int(found.records.groupby("run")["step"].nunique().max()),
        last=f"{int(found.records['step'].max()):,}",
        task_count=len(found.tasks),
        counts_head=tables.COUNTS,
        counts=tables.count_rows(found),
        legend=tables.LEGEND,
        kinds_head=kinds[0],
        kinds=kinds[1:],
        rises_head=rises_head,
        rises=rises,
        swaps=swaps[: tables.MOST_ROWS],
        swap_count=len(swaps),
        precursors=tables.precursor_rows(found),
        figures=on_page(figures),
        claims=claim_rows(judged, version),
        sweeps=[found.name],
        version=version,
        settings=[],
        measured=[],
    )
