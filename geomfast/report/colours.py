"""Colours and marks that mean the same in every figure and on the page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from geomfast.measures.spec import BLUE, GREEN, ORANGE, PURPLE, SKY
from geomfast.records import FINAL
from geomfast.testbed.models.scales import SCALES

#: The palette beside the colours of measures, which are imported above.
VERMILLION, BLACK, GREY = "#D55E00", "#222222", "#8A8F98"
#: Vermillion dark enough for small text on white.
RED_TEXT = "#A84A00"
#: Text and axes, and thin guide lines.
INK, SOFT, LINE = "#1f2328", "#4b5563", "#d1d5db"
#: Marker of a coefficient in doubt.
DOUBTFUL: Any = {"marker": "x", "color": VERMILLION, "markersize": 4, "zorder": 3}
#: Marker of a coefficient that is a lower bound.
BOUNDED: Any = {"marker": "^", "color": INK, "markersize": 3.5, "markerfacecolor": "white"}
BOUNDED |= {"markeredgewidth": 0.8, "zorder": 3}
#: Short dashes.
DASHED: Any = (0, (3, 2))

#: Colours of lines of one kind, in order.
LINES = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, BLACK)
#: Colours of quantities, in figures and on the page.
COLOUR = {"rankme": BLUE, "accuracy": VERMILLION, "logprob": PURPLE, "floor": BLACK}
COLOUR["text"] = RED_TEXT  # of the accuracy


def block_colour(index: int, blocks: int) -> tuple[float, float, float]:
    """Grey-blue of block ``index`` (from 0): light for the first block, dark for the last."""
    share = 0.5 if blocks < 2 else index / (blocks - 1)
    light, dark = np.array([0.76, 0.82, 0.88]), np.array([0.25, 0.36, 0.47])
    red, green, blue = light + share * (dark - light)
    return float(red), float(green), float(blue)


def layer_looks(layers: Iterable[str]) -> dict[str, tuple[Any, str]]:
    """Colours of layers, as matplotlib's and as #rrggbb: blocks from light to dark, others blue."""
    blocks = [layer for layer in layers if layer not in ("", FINAL)]
    shades = [block_colour(index, len(blocks)) for index in range(len(blocks))]
    looks: dict[str, tuple[Any, str]] = {layer: (BLUE, BLUE) for layer in ("", FINAL)}
    for block, rgb in zip(blocks, shades, strict=True):
        looks[block] = rgb, "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
    return looks


def plain_colour(colour: str) -> str:
    """The colour of a measure, or blue where another package's is not #rrggbb."""
    return colour if re.fullmatch("#[0-9A-Fa-f]{6}", str(colour)) else BLUE


def scale_look(scale: str) -> tuple[str, str]:
    """Colour and marker of a scale in every figure."""
    looks = zip(
        SCALES, (ORANGE, SKY, GREEN, PURPLE, BLUE, BLACK), ("o", "s", "^", "D", "v", "P"),
        strict=True,
    )  # fmt: skip
    return {name: (colour, marker) for name, colour, marker in looks}.get(scale, (GREY, "X"))


def level_looks(levels: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Colour and marker of every difficulty level."""
    looks = [(BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D")]
    return {level: looks[index % len(looks)] for index, level in enumerate(sorted(levels))}
