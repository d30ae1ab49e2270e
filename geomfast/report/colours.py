"""Colours and marks that mean the same in every figure and on the page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from geomfast.measures.spec import BLUE, GREEN, ORANGE, PURPLE, SKY
from geomfast.records import FINAL
from geomfast.testbed.models.scales import SCALES

#: The rest of the palette that measures have their colours of.
VERMILLION, BLACK, GREY = "#D55E00", "#222222", "#8A8F98"
#: Text and axes, and thin lines that only help the eye.
INK, SOFT, LINE = "#1f2328", "#4b5563", "#d1d5db"
#: Short dashes.
DASHED: Any = (0, (3, 2))

#: Of lines that are of one kind, one after the other.
LINES = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, BLACK)
#: What each thing looks like in every figure and in the page.
COLOUR = {"rankme": BLUE, "accuracy": VERMILLION, "logprob": PURPLE, "floor": BLACK}


def block_colour(index: int, blocks: int) -> tuple[float, float, float]:
    """Grey-blue of block ``index`` (from 0): light for the first block, dark for the last."""
    share = 0.5 if blocks < 2 else index / (blocks - 1)
    light, dark = np.array([0.76, 0.82, 0.88]), np.array([0.25, 0.36, 0.47])
    red, green, blue = light + share * (dark - light)
    return float(red), float(green), float(blue)


def layer_looks(layers: Iterable[str]) -> dict[str, tuple[Any, str]]:
    """Colour and the same as #rrggbb of some layers: blocks from light to dark, the rest blue."""
    blocks = [layer for layer in layers if layer not in ("", FINAL)]
    shades = [block_colour(index, len(blocks)) for index in range(len(blocks))]
    looks: dict[str, tuple[Any, str]] = {layer: (BLUE, BLUE) for layer in ("", FINAL)}
    for block, rgb in zip(blocks, shades, strict=True):
        looks[block] = rgb, "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
    return looks


def plain_colour(colour: str) -> str:
    """A colour that a measure of another package says it has; blue where that is no #rrggbb."""
    return colour if re.fullmatch("#[0-9A-Fa-f]{6}", str(colour)) else BLUE


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
