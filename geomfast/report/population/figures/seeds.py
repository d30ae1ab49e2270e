"""Figure of the number of seeds that a study needs."""

from __future__ import annotations

from typing import Any

from geomfast.report.colours import DASHED, GREY
from geomfast.report.extras import need
from geomfast.report.population.data import Population
from geomfast.report.population.figures.common import colours, heading, success_text
from geomfast.report.style import canvas, legend, styled

_TICKS = (1, 2, 5, 10, 20, 50, 100, 250)


@styled
def seeds_figure(population: Population) -> Any:
    """Chance of any success, and width of the interval of P(success), by number of seeds.

    None where no scale has statistics, or all members succeed.
    """
    found = population.seeds_curve
    if found.empty or (found["any"] == 1.0).all():
        return None
    figure, grid = canvas(9.8, 4.2, 1, 2, left=0.75, right=0.3, top=1.2, bottom=1.05, wspace=0.22)
    left, right = grid[0]
    palette = dict(zip(population.scales, colours(len(population.scales)), strict=True))
    for scale, rows in found.groupby("scale", sort=False):
        colour = palette[str(scale)]
        look = {"color": colour, "linewidth": 1.6}
        left.plot(rows["count"], rows["any"], label=population.labels[str(scale)], **look)
        left.fill_between(
            rows["count"], rows["any_low"], rows["any_high"], color=colour, alpha=0.12, linewidth=0
        )
        right.plot(rows["count"], rows["half_width"], **look)
    for axes in grid[0]:
        axes.set_xscale("log")
        axes.set_xticks(_TICKS, [str(tick) for tick in _TICKS])
        axes.minorticks_off()
        axes.set_xlabel("seeds at this scale")
        axes.grid(color="#e5e7eb", linewidth=0.7)
    left.axhline(0.95, color=GREY, linewidth=0.9, linestyle=DASHED)
    left.set_ylim(0, 1.03)
    left.set_title("P(at least one success)", loc="left")
    right.axhline(0.1, color=GREY, linewidth=0.9, linestyle=DASHED)
    right.set_ylim(0, None)
    right.set_title("P(success) is known to within ±", loc="left")
    right.yaxis.set_major_formatter(need("matplotlib.ticker").PercentFormatter(1.0, decimals=0))
    legend(figure, left.get_legend_handles_labels()[0])
    how = f"{success_text(population)}; bands: 95%, from the interval of P(success)"
    heading(figure, population, "How many seeds are needed", how, 0.75)
    return figure
