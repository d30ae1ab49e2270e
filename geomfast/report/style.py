"""What all figures share: colours, axes, panels, and the import of the optional packages."""

from __future__ import annotations

import importlib
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from geomfast.measures.spec import BLUE, GREEN, ORANGE, PURPLE, SKY
from geomfast.testbed.models.scales import SCALES

#: The rest of the palette that measures have their colours of.
VERMILLION, BLACK, GREY = "#D55E00", "#222222", "#8A8F98"
#: Text and axes, and thin lines that only help the eye.
INK, SOFT, LINE = "#1f2328", "#4b5563", "#d1d5db"

#: What each thing looks like in every figure and in the page.
COLOUR = {"rankme": BLUE, "accuracy": VERMILLION, "logprob": PURPLE, "floor": BLACK}

#: Inches that a letter takes in a legend or in what stands under a title, on average.
_LETTER = 0.078

#: Steps that an axis may name, with the finer ones for a run that has only begun.
DECADES = (0, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
FIRST_STEPS = (0, 1, 2, 5, 10, 20, 50, 100)

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.edgecolor": "#6b7280",
    "axes.linewidth": 0.7,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    # Titles stand where they are; no ticks are above any axes.
    "axes.titley": 1.0,
    "axes.labelcolor": BLACK,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": BLACK,
    "svg.hashsalt": "geomfast",
    # Names may hold dollars.
    "text.parse_math": False,
}


class MissingExtra(ImportError):
    """A package of the optional extra ``report`` is not installed."""


def need(module: str) -> Any:
    """Import a module of the optional extra ``report``.

    Raises:
        MissingExtra: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise MissingExtra(
            f'the report needs {package} ({error}); pip install "geomfast[report]"'
        ) from error


def block_colour(index: int, blocks: int) -> tuple[float, float, float]:
    """Grey-blue of block ``index`` (from 0): light for the first block, dark for the last."""
    share = 0.5 if blocks < 2 else index / (blocks - 1)
    light, dark = np.array([0.76, 0.82, 0.88]), np.array([0.25, 0.36, 0.47])
    red, green, blue = light + share * (dark - light)
    return float(red), float(green), float(blue)


def scale_look(scale: str) -> tuple[str, str]:
    """Colour and marker of a scale, the same in every figure."""
    looks = zip(
        SCALES, (ORANGE, SKY, GREEN, PURPLE, BLUE, BLACK), ("o", "s", "^", "D", "v", "P"),
        strict=True,
    )  # fmt: skip
    return {name: (colour, marker) for name, colour, marker in looks}.get(scale, (GREY, "X"))


def level_looks(levels: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Colour and marker of every difficulty level."""
    looks = [(BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D")]
    return {level: looks[index % len(looks)] for index, level in enumerate(sorted(levels))}


def plain_numbers(axis: Any, *, minor: bool = False) -> None:
    """Ticks of a log axis as plain numbers; the minor ones too, or without labels."""
    ticker = need("matplotlib.ticker")
    plain = ticker.FuncFormatter(lambda value, _: f"{value:g}")
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(plain if minor else ticker.NullFormatter())


def step_label(step: int) -> str:
    """Short text of a step: 0, 10, 100, 1k, 10k, 1M."""
    if step >= 1_000_000:
        return f"{step // 1_000_000}M"
    return f"{step // 1_000}k" if step >= 1_000 else str(step)


def step_ticks(last: float) -> list[int]:
    """Ticks of a step axis that ends at ``last``."""
    return [tick for tick in (DECADES if last > 100 else FIRST_STEPS) if tick <= max(last, 1)]


def step_axis(axes: Any, last: float, which: str = "x") -> None:
    """Make an axis one of steps: log(1 + step) shows step 0 and gives the early steps room."""
    ticks = step_ticks(last)
    axes.set(**{f"{which}lim": (0, max(last, 1) * 1.06)})
    axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("function", functions=(np.log1p, np.expm1))
    axis.set_ticks(ticks, labels=[step_label(tick) for tick in ticks])
    axes.minorticks_off()


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any):
    """A figure and its axes as a (rows, columns) array, with spacing given in inches."""
    figure = need("matplotlib.figure").Figure(figsize=(width, height), facecolor="white")
    need("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    top, bottom = grid.pop("top", 0.75), grid.pop("bottom", 0.6)
    left, right = grid.pop("left", 0.65), grid.pop("right", 0.65)
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        top=1 - top / height,
        bottom=bottom / height,
        wspace=grid.pop("wspace", 0.35),
        hspace=grid.pop("hspace", 0.55),
    )
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def styled(draw):
    """Draw under this module's matplotlib settings, whatever the caller's are."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with need("matplotlib").rc_context(RC):
            return draw(*args, **kwargs)

    wrapper.__doc__, wrapper.__name__ = draw.__doc__, draw.__name__
    return wrapper


def head(figure: Any, title: str, subtitle: str, left: float = 0.65) -> None:
    """A title and, in as many lines as it takes, what the figure shows, over its axes."""
    width, height = figure.get_size_inches()
    subtitle = textwrap.fill(subtitle, int((width - left) / _LETTER))
    figure.text(left / width, 1 - 0.12 / height, title, va="top", fontsize=13, fontweight="bold")
    figure.text(left / width, 1 - 0.40 / height, subtitle, va="top", fontsize=9, color="#4b5563")


def legend(figure: Any, handles: Sequence[Any], **look: Any) -> None:
    """A legend below the axes, in two lines where one would be wider than the figure."""
    width, _ = figure.get_size_inches()
    wide = sum(_LETTER * len(handle.get_label()) + 0.6 for handle in handles)
    columns = math.ceil(len(handles) / (1 if wide < width else 2))
    figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, **look)


def multiples(names: Sequence[str], last: float, label: str) -> tuple[Any, dict[str, Any]]:
    """A figure with a panel for every name, three or four in a row, that share their y axis.

    Args:
        names: headings of the panels.
        last: training step that the x axes end at.
        label: of the y axes.

    Returns:
        The figure, with room for a heading and a legend below, and the axes by name.
    """
    columns = columns_for(len(names))
    rows = math.ceil(len(names) / columns)
    figure, grid = canvas(
        max(3.1 * columns + 1.2, 9.0), 2.1 * rows + 1.9, rows, columns, left=0.75, right=0.3,
        top=1.05, bottom=0.95, wspace=0.16, hspace=0.42, sharey=True,
    )  # fmt: skip
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    found = dict(zip(names, grid.flat, strict=False))
    for index, (name, axes) in enumerate(found.items()):
        axes.set_title(name, loc="left")
        step_axis(axes, last)
        axes.spines["right"].set_visible(False)
        if index % columns == 0:
            axes.set_ylabel(label)
        if index + columns >= len(names):
            axes.set_xlabel("training step (log)")
    return figure, found


def columns_for(panels: int) -> int:
    """Panels in a row: four at most, and three where four would leave one alone in its row."""
    return 3 if panels > 4 and panels % 4 == 1 else min(4, max(panels, 1))


def rank_axis(axes: Any, values: np.ndarray) -> None:
    """A log axis: a fall from 2.7 to 2.1 must show beside a later rise to 27."""
    low, high = float(values.min()) / 1.25, float(values.max()) * 1.2
    axes.set_yscale("log", base=2)
    axes.set_ylim(low, high)
    powers = [2.0**k for k in range(-10, 20)]
    ticks = [tick for tick in powers if low <= tick <= high]
    if len(ticks) < 3:
        ticks = [tick for p in powers for tick in (p, 1.5 * p) if low <= tick <= high]
    if len(ticks) < 2:
        locator = need("matplotlib.ticker").MaxNLocator(4)
        ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
