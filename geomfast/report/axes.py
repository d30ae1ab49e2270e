"""Axes of figures: training steps, logarithms, rows of names, shares, and texts beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from geomfast.report.colours import SOFT
from geomfast.report.extras import need

#: Label of a step axis.
STEPS = "training step (log)"
#: Ticks of a step axis, and the finer ones of a run of at most a hundred steps.
DECADES = (0, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
FIRST_STEPS = (0, 1, 2, 5, 10, 20, 50, 100)


#: Ticks from this ratio of the ends of a logarithmic axis on are decades only.
_WIDE = 30.0
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def tick_label(value: float) -> str:
    """A number as short as an axis needs it: 0.02, 500, 10³, 2×10⁻⁴."""
    power = math.floor(math.log10(abs(value)) + 1e-9) if value else 0
    if -3 < power < 3:
        return f"{value:g}"
    digits = f"{value / 10.0**power:.3g}"
    factor = {"1": "", "-1": "-"}.get(digits, f"{digits}×")
    return f"{factor}10{str(power).translate(_SUPERSCRIPT)}"


def log_ticks(axis: Any, *, between: bool = False) -> None:
    """Ticks of a logarithmic axis: decades, with exponents where they are far from 1.

    Args:
        axis: of either direction.
        between: label the minor ticks as well on an axis so short that it has few decades.
    """
    ticker = need("matplotlib.ticker")

    def minor(value: float, _: Any) -> str:
        low, high = axis.get_view_interval()
        return tick_label(value) if low > 0 and high < _WIDE * low else ""

    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: tick_label(value)))
    axis.set_minor_formatter(ticker.FuncFormatter(minor) if between else ticker.NullFormatter())


def log_axis(axes: Any) -> None:
    """Make y logarithmic, with ticks at decades or, where it spans few, at 1, 2 and 5 of each."""
    axes.set_yscale("log", subs=[2, 5])
    log_ticks(axes.yaxis, between=True)


def step_ticks(last: float) -> list[int]:
    """Ticks of a step axis that ends at ``last``."""
    return [tick for tick in (DECADES if last > 100 else FIRST_STEPS) if tick <= max(last, 1)]


def step_axis(axes: Any, last: float, which: str = "x") -> None:
    """Make an axis one of steps, by log(1 + step), which shows step 0 and spreads early steps."""
    ticks = step_ticks(last)
    axes.set(**{f"{which}lim": (0, max(last, 1) * 1.06)})
    axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("function", functions=(np.log1p, np.expm1))
    axis.set_ticks(ticks, labels=[tick_label(tick) for tick in ticks])
    axes.minorticks_off()


def rank_axis(axes: Any, values: np.ndarray) -> None:
    """Make y logarithmic, so that a drop from 2.7 to 2.1 shows beside a later rise to 27."""
    low, high = float(values.min()) / 1.25, float(values.max()) * 1.2
    axes.set_yscale("log", base=2)
    axes.set_ylim(low, high)
    if high > 100 * low:
        ticks = [10.0**k for k in range(-3, 7) if low <= 10.0**k <= high]
        axes.set_yticks(ticks, [tick_label(tick) for tick in ticks])
        axes.minorticks_off()
        return
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
    """Make y an axis of rows, one per name, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def share_axis(axes: Any) -> None:
    """Make x an axis of shares, from 0 to 100%."""
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])


def guides(axes: Any, which: str = "x") -> None:
    """Draw thin grid lines at the ticks of an axis, behind the data."""
    axes.grid(axis=which, color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)


def beside(axes: Any, text: str, y: float, x: float = 1.02, **look: Any) -> None:
    """Write a small text right of the axes, at a position of the y axis."""
    look = {"va": "center", "fontsize": 7.5, "color": SOFT} | look
    axes.annotate(text, (x, y), xycoords=("axes fraction", "data"), **look)
