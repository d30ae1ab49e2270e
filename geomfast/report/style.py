"""Colours, the step axis and the import of the optional packages, shared by all figures."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

#: Okabe and Ito's palette, which readers with any colour vision can tell apart.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#222222", "#8A8F98"

#: What each thing looks like in every figure and in the page.
COLOUR = {"rankme": BLUE, "accuracy": VERMILLION, "logprob": PURPLE, "floor": BLACK}

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
    "axes.labelcolor": BLACK,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": BLACK,
    "svg.hashsalt": "geomfast",
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


def step_label(step: int) -> str:
    """Short text of a step: 0, 10, 100, 1k, 10k, 1M."""
    if step >= 1_000_000:
        return f"{step // 1_000_000}M"
    return f"{step // 1_000}k" if step >= 1_000 else str(step)


def step_ticks(last: float) -> list[int]:
    """Ticks of a step axis that ends at ``last``."""
    return [tick for tick in (DECADES if last > 100 else FIRST_STEPS) if tick <= max(last, 1)]


def step_axis(axes: Any, last: float) -> None:
    """Make x a step axis: log(1 + step), so that step 0 is shown and the early steps are wide."""
    axes.set_xscale("function", functions=(np.log1p, np.expm1))
    axes.set_xlim(0, max(last, 1) * 1.06)
    ticks = step_ticks(last)
    axes.set_xticks(ticks, [step_label(tick) for tick in ticks])
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
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - 0.12 / height, title, va="top", fontsize=13, fontweight="bold")
    figure.text(left / width, 1 - 0.40 / height, subtitle, va="top", fontsize=9, color="#4b5563")
