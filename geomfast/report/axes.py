"""Axes of figures: steps, ranks, rows of names, shares, and what stands beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from geomfast.report.colours import SOFT
from geomfast.report.extras import need

#: Label of a step axis.
STEPS = "training step (log)"
#: Steps that an axis may name, with the finer ones for a run that has only begun.
DECADES = (0, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
FIRST_STEPS = (0, 1, 2, 5, 10, 20, 50, 100)


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


def row_axis(axes: Any, names: Sequence[str]) -> None:
    """Make y a row for every name, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def share_axis(axes: Any) -> None:
    """Make x one of shares."""
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])


def guides(axes: Any, which: str = "x") -> None:
    """Thin lines at the ticks of an axis, behind everything."""
    axes.grid(axis=which, color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)


def beside(axes: Any, text: str, y: float, x: float = 1.02, **look: Any) -> None:
    """A small text at a place of the y axis, right of the axes."""
    look = {"va": "center", "fontsize": 7.5, "color": SOFT} | look
    axes.annotate(text, (x, y), xycoords=("axes fraction", "data"), **look)
