"""The look of all figures: canvas, headings, legends, small multiples."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from geomfast.report.axes import STEPS, step_axis
from geomfast.report.colours import BLACK, SOFT
from geomfast.report.extras import need

#: Average inches of a letter in a legend or a subtitle.
_LETTER = 0.078

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.edgecolor": "#6b7280",
    "axes.linewidth": 0.7,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    # A fixed place, as no axes have ticks above them.
    "axes.titley": 1.0,
    "axes.labelcolor": BLACK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": BLACK,
    "svg.hashsalt": "geomfast",
    "svg.fonttype": "none",
    # Names may contain dollar signs.
    "text.parse_math": False,
}


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any):
    """A figure and its axes as a (rows, columns) array, with spacing given in inches."""
    figure = need("matplotlib.figure").Figure(figsize=(width, height), facecolor="white")
    need("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    top, bottom = grid.pop("top", 0.75), grid.pop("bottom", 0.6)
    left, right = grid.pop("left", 0.65), grid.pop("right", 0.65)
    gaps = {name: grid.pop(name, gap) for name, gap in (("wspace", 0.35), ("hspace", 0.55))}
    across = {"left": left / width, "right": 1 - right / width}
    figure.subplots_adjust(**across, top=1 - top / height, bottom=bottom / height, **gaps)
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    for one in axes.flat:
        one.spines["right"].set_visible(False)
    return figure, axes


def panels_of(grid: Any, names: Sequence[Any]) -> Iterator[tuple[Any, Any, bool, bool]]:
    """The panels in use of a grid: name, axes, whether leftmost, whether lowest of its column."""
    columns = grid.shape[1]
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    for index, (name, axes) in enumerate(zip(names, grid.flat, strict=False)):
        yield name, axes, index % columns == 0, index + columns >= len(names)


def handle(label: str, **look: Any) -> Any:
    """A line or a mark of a legend."""
    return need("matplotlib.lines").Line2D([], [], label=label, **look)


def area(label: str, **look: Any) -> Any:
    """A filled area of a legend."""
    return need("matplotlib.patches").Patch(label=label, **look)


def band(axes: Any, at: Any, colour: Any, alpha: float = 0.2, **look: Any) -> None:
    """Draw a curve of :func:`geomfast.report.curves.medians` with its errors as a band."""
    axes.fill_between(at.index, at["low"], at["high"], color=colour, alpha=alpha, linewidth=0)
    axes.plot(at.index, at["middle"], color=colour, linewidth=1.6, **look)


def styled(draw):
    """Decorate a function to draw under this module's matplotlib settings, not the caller's."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with need("matplotlib").rc_context(RC):
            return draw(*args, **kwargs)

    wrapper.__doc__, wrapper.__name__ = draw.__doc__, draw.__name__
    return wrapper


def head(figure: Any, title: str, subtitle: str, left: float = 0.65, more: str = "") -> None:
    """Write a title, a wrapped subtitle and perhaps another line above the axes.

    Args:
        figure: with enough room on top.
        title, subtitle: the texts.
        left: their left edge, in inches.
        more: a third line, for which the subtitle must fit into one.
    """
    width, height = figure.get_size_inches()
    subtitle = textwrap.fill(subtitle, int((width - left) / _LETTER))
    figure.text(left / width, 1 - 0.12 / height, title, va="top", fontsize=13, fontweight="bold")
    look = {"va": "top", "fontsize": 9, "color": SOFT}
    figure.text(left / width, 1 - 0.40 / height, subtitle, **look)
    if more:
        figure.text(left / width, 1 - 0.62 / height, more, **look)


def legend(figure: Any, handles: Sequence[Any], **look: Any) -> None:
    """Write a legend below the axes, in two lines where one would be wider than the figure."""
    width, _ = figure.get_size_inches()
    wide = sum(_LETTER * len(handle.get_label()) + 0.6 for handle in handles)
    columns = math.ceil(len(handles) / (1 if wide < width else 2))
    figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, **look)


def multiples(
    names: Sequence[str], last: float, label: str, *, common: bool = True
) -> tuple[Any, dict[str, Any]]:
    """A figure with a panel per name, three or four in a row.

    Args:
        names: headings of the panels.
        last: training step that the x axes end at.
        label: of the y axes.
        common: whether all have one y axis.

    Returns:
        The figure, with room for a heading and a legend below, and the axes by name.
    """
    figure, grid = small_panels(len(names), common=common)
    found = {}
    for name, axes, leftmost, lowest in panels_of(grid, names):
        found[name] = axes
        axes.set_title(name, loc="left")
        step_axis(axes, last)
        if leftmost:
            axes.set_ylabel(label)
        if lowest:
            axes.set_xlabel(STEPS)
    return figure, found


def small_panels(count: int, *, common: bool = True) -> tuple[Any, Any]:
    """A figure and its axes as a (rows, columns) array for so many panels, with a common y axis or
    with one each, three or four in a row, with room for a heading and a legend below."""
    columns = columns_for(count)
    rows = math.ceil(count / columns)
    return canvas(
        max(3.1 * columns + 1.2, 9.0), 2.1 * rows + 1.9, rows, columns, left=0.75, right=0.3,
        top=1.05, bottom=0.95, wspace=0.16 if common else 0.24, hspace=0.42, sharey=common,
    )  # fmt: skip


def columns_for(panels: int) -> int:
    """Panels in a row: four at most, and three where four would leave one alone in its row."""
    return 3 if panels > 4 and panels % 4 == 1 else min(4, max(panels, 1))
