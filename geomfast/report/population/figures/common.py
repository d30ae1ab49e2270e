"""What the figures of a population share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from geomfast.report.extras import need
from geomfast.report.population.data import Population
from geomfast.report.style import head

#: Inches of a letter of a tick label.
_LETTER = 0.072


def colours(count: int) -> list[Any]:
    """A colour per scale, from dark (small) to light (large), readable with any colour vision."""
    spectrum = need("matplotlib").colormaps["cividis"]
    return [spectrum(0.88 * index / max(count - 1, 1)) for index in range(count)]


def size_text(parameters: float) -> str:
    """A model size as text: 768, 25K, 3.2M, 70B; empty where it is not known."""
    if math.isnan(parameters):
        return ""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{name}"
    return f"{parameters:.0f}"


def scale_names(population: Population) -> dict[str, str]:
    """Names of the scales with their sizes below."""
    sizes = population.table.groupby("scale", sort=False)["parameters"].first()
    return {
        scale: f"{population.labels[scale]}\n{size_text(float(sizes[scale]))}".rstrip()
        for scale in population.scales
    }


def widest(names: Iterable[str]) -> float:
    """Width of the longest line of some tick labels, in inches."""
    return max(_LETTER * len(line) for name in names for line in name.split("\n"))


def scale_axis(axes: Any, names: Sequence[str]) -> None:
    """Make x an axis with a tick per scale, whose labels are upright where they would overlap."""
    figure, place = axes.figure, axes.get_position()
    width, height = figure.get_size_inches()
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    if widest(names) > 0.95 * place.width * width / len(names):
        flat = [name.replace("\n", ", ") for name in names]
        axes.set_xticks(range(len(names)), flat, rotation=90)
        figure.subplots_adjust(bottom=min((widest(flat) + 0.5) / height, 0.55))


def members_text(population: Population) -> str:
    """The members of a figure: *COUNT, length 24; 5 scales, 248 seeds, 2 unfinished*."""
    whole = population.of or population
    finished = int(whole.table["score"].notna().sum())
    left = len(whole.table) - finished
    text = f"{population.short_name}; {len(whole.scales)} scales, {finished} finished members"
    text += f", {left} unfinished" if left else ""
    shown = f"; {len(population.scales)} of the scales are drawn" if population.of else ""
    return text + shown


def success_text(population: Population) -> str:
    """The rule of success: *success: score of 0.2 or more*."""
    return f"success: {score_name(population)} of {population.success:g} or more"


def score_name(population: Population) -> str:
    """What a member's score is."""
    if population.records is None:
        return "score"
    return "exact match" if population.length else "accuracy"


def p_text(p: float) -> str:
    """A p-value: *p = 0.03*, *p < 0.001*; a dash where there is none."""
    if math.isnan(p):
        return "–"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3g}" if p < 0.1 else f"p = {p:.2f}"


def heading(figure: Any, population: Population, title: str, how: str, left: float) -> None:
    """Write a title, the members and the methods of a figure, ``left`` inches from its edge."""
    head(figure, title, members_text(population), left, more=how)
