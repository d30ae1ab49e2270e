"""Columns of a record, labels of layers, names of part files."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa

from geomfast.files import FileError

#: Name, Arrow type and meaning of every column, in file order.
COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("run", pa.string(), "name of the training run, for instance joint-nano-seed0"),
    ("scale", pa.string(), "model scale: nano, micro, ..."),
    ("seed", pa.int64(), "seed of initialisation and data"),
    ("step", pa.int64(), "optimiser steps taken when the weights were measured"),
    ("tokens", pa.int64(), "real (unpadded) training tokens seen so far"),
    ("task", pa.string(), "task name; empty for a measure over the whole mixture"),
    ("level", pa.int64(), "difficulty level 1, 2, 3; 0 for the whole mixture"),
    ("layer", pa.string(), "'block 1' ... 'block L', 'final', or empty where there is none"),
    ("measure", pa.string(), "rankme, accuracy, answer_logprob, ..."),
    ("value", pa.float64(), "the value, in the measure's own unit"),
    ("stderr", pa.float64(), "its standard error, NaN where none is defined"),
    ("n", pa.int64(), "number of samples behind the value"),
    ("settings", pa.string(), "hash of the measure's settings"),
    ("weights", pa.string(), "hash of the weights measured"),
    ("data", pa.string(), "hash of the samples measured on"),
    ("backend", pa.string(), "which kernel backend computed it"),
    ("device", pa.string(), "where it ran"),
    ("seconds", pa.float64(), "wall time of this value; the one column a rerun does not repeat"),
)
SCHEMA = pa.schema([pa.field(name, kind) for name, kind, _ in COLUMNS])


class RecordsError(FileError):
    """A records folder that cannot be read or written as one."""


def part_name(step: int, measures: Iterable[str]) -> str:
    """File name of the part that holds these measures of the checkpoint at ``step``."""
    return f"step-{step:08d}.{'+'.join(sorted(measures))}.parquet"


def parse_part_name(name: str) -> tuple[int, set[str]] | None:
    """Step and measures in a part's file name; None for any other name."""
    found = re.fullmatch(r"step-([0-9]{8,19})\.([A-Za-z0-9_+]+)\.parquet", name)
    return (int(found[1]), set(found[2].split("+"))) if found else None
