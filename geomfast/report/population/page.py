"""The page of a population's report, one file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geomfast.analysis.population import LEAST_SEEDS
from geomfast.analysis.population.summary import bootstrap_of
from geomfast.report.drawing import OnPage
from geomfast.report.page import on_page, template
from geomfast.report.population import tables
from geomfast.report.population.data import Populations
from geomfast.report.settings import readable_settings


def render(
    found: Populations,
    values: Sequence[Mapping[str, Any]],
    drawn: Mapping[str, Sequence[OnPage]],
    notes: Sequence[str] = (),
) -> str:
    """The page as text.

    Args:
        found: the populations.
        values: those of each in report.json.
        drawn: figures of each, by its ``slug``.
        notes: on what was left out.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    counts = [bootstrap_of(each.table) for each in found.each]
    return template("population.html.j2").render(
        title=f"geomfast: outcomes over seeds, {found.name}",
        populations=[
            {
                "slug": population.slug,
                "name": population.name,
                "lines": value["lines"],
                "rows": tables.summary_rows(value["summary"]),
                "figures": on_page(drawn[population.slug]),
                "measured": population.records is not None,
                "resolution": f"{population.resolution:.3g}",
            }
            for population, value in zip(found.each, values, strict=True)
        ],
        notes=notes,
        headings=tables.HEADINGS,
        success=_successes(found),
        least=LEAST_SEEDS,
        bootstrap=" to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)})),
        measured=[],
        missing=[],
        settings=readable_settings(found.settings),
    )


def _successes(found: Populations) -> str:
    """The scores that are success: one, or one of each population where they differ."""
    by_score: dict[float, list[str]] = {}
    for population in found.each:
        by_score.setdefault(population.success, []).append(population.name)
    if len(by_score) == 1:
        return f"{next(iter(by_score)):g}"
    return ", ".join(f"{score:g} ({'; '.join(names)})" for score, names in by_score.items())
