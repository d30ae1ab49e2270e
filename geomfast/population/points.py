"""Points of a population's axis: a scale, and what varies beside it. Does not import torch.

A point's name is that of its scale and what varies, for instance ``2x64-mixture0.01``: as such it
is the ``scale`` of its records and the name of its groups.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geomfast.runs.errors import PlanError
from geomfast.testbed.models.scales import POSITIONAL_ENCODINGS

#: More would be written with an exponent of two signs, and is no weight decay.
_MOST_DECAY = 1000.0


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise ValueError("a share from 0 to 1")
    return abs(value)  # of -0 too


def _length(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError("a length from 1")
    return int(text)


def _decay(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= _MOST_DECAY:
        raise ValueError(f"a weight decay from 0 to {_MOST_DECAY:g}")
    return abs(value)  # of -0 too


def _encoding(text: str) -> str:
    if text not in POSITIONAL_ENCODINGS:
        raise ValueError(f"one of {', '.join(POSITIONAL_ENCODINGS)}")
    return text


@dataclass(frozen=True)
class Axis:
    """A setting that points can differ in beside their scale.

    Attributes:
        field: of the population's settings.
        prefix: of its value in the name of a point.
        read: its value from text.
        shown: what it is, for people.
    """

    field: str
    prefix: str
    read: Callable[[str], Any]
    shown: str


AXES: dict[str, Axis] = {
    "mixture": Axis("mixture", "mixture", _share, "share of sentences that tell the rules apart"),
    "embedded": Axis("embedded", "embedded", _share, "share of copied sentences with embedding"),
    "train-length": Axis("train_length", "length", _length, "longest length trained on"),
    "weight-decay": Axis("weight_decay", "decay", _decay, "weight decay"),
    "positions": Axis("positions", "positions-", _encoding, "positional encoding"),
}
_NUMBER = r"\d+(?:\.\d+)?(?:e-\d+)?"
_POINT = re.compile(
    r"(?P<scale>[1-9]\d*x[1-9]\d*)"
    + "".join(
        rf"(?:-{axis.prefix}(?P<{axis.field}>{'[a-z]+' if axis.read is _encoding else _NUMBER}))?"
        for axis in AXES.values()
    )
)


def read_axis(text: str) -> tuple[str, list[Any]]:
    """Name and values of an axis as the command line has it, ``mixture=0,0.01,0.1``.

    Raises:
        ValueError: there is no such axis, or a value is none of it, or is there twice.
    """
    name, sign, values = text.partition("=")
    if name not in AXES or not sign:
        there = ", ".join(AXES)
        raise ValueError(f"{text!r} is not AXIS=VALUE,VALUE,...; axes are {there}")
    found = []
    for value in values.split(","):
        try:
            found.append(AXES[name].read(value.strip()))
        except ValueError as error:
            raise ValueError(f"{name}={value.strip()!r} is not {error}") from None
    if len(set(found)) < len(found):
        raise ValueError(f"{name}: a value is there twice in {values!r}")
    return name, found


def points(scales: Sequence[str], axes: Mapping[str, Sequence[Any]]) -> list[str]:
    """Names of all points of a grid, scale by scale.

    Args:
        scales: their names.
        axes: values of each axis by its name.
    """
    order = [name for name in AXES if name in axes]
    varied = [
        "".join(
            f"-{AXES[name].prefix}{_text(value)}" for name, value in zip(order, of, strict=True)
        )
        for of in itertools.product(*(axes[name] for name in order))
    ]
    return [scale + of for scale in scales for of in varied]


def parsed(point: str) -> tuple[str, dict[str, Any]]:
    """The scale of a point, and the settings that it has of its own.

    Raises:
        PlanError: it is no name of a point.
    """
    found = _POINT.fullmatch(point)
    if found is None:
        raise PlanError(f"{point!r} is no scale: LAYERSxWIDTH, for instance 2x32")
    own = {
        axis.field: axis.read(text)
        for axis in AXES.values()
        if (text := found[axis.field]) is not None
    }
    return found["scale"], own


def _text(value: Any) -> str:
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)
