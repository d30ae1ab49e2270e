"""The one table everything writes and every analysis reads.

A record is one value of one measure at one moment of one run, in long form.  Records live in
Parquet part files, one per checkpoint and group of measures, under ``OUT/records/RUN/``; each
part is written to a temporary name, synced and renamed, so a reader never meets half a part.
``OUT/settings.json`` resolves the hashes in the ``settings`` and ``data`` columns.

This module needs no torch: analyses and reports run where there is none.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from geomfast.files import write_atomically

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
FINAL = "final"
#: Task and level of a value over all task-levels of a run.
MIXTURE = ("", 0)


class RecordsError(Exception):
    """A records folder that cannot be read or written as one."""


def block(index: int) -> str:
    """Label of the output of transformer block ``index`` (counted from 1)."""
    return f"block {index}"


def layer_depth(label: str) -> float:
    """Position of a layer label in the network: 0 for none, 1..L for blocks, infinity for final."""
    if label == "":
        return 0.0
    if label == FINAL:
        return math.inf
    return float(label.removeprefix("block "))


def part_name(step: int, measures: Iterable[str]) -> str:
    """File name of the part that holds these measures of the checkpoint at ``step``."""
    return f"step-{step:08d}.{'+'.join(sorted(measures))}.parquet"


def parse_part_name(name: str) -> tuple[int, set[str]] | None:
    """Step and measures in a part's file name; None for any other name."""
    found = re.fullmatch(r"step-(\d{8,})\.([\w+]+)\.parquet", name)
    return (int(found[1]), set(found[2].split("+"))) if found else None


def is_part(path: Path) -> bool:
    """Whether a file is a whole part of geomfast records; reads its footer only."""
    try:
        return pyarrow.parquet.read_schema(path).names == SCHEMA.names
    except (pa.ArrowException, OSError):
        return False


def write_part(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one part file; every row must have every column of :data:`COLUMNS`."""
    complete = [{name: row[name] for name in SCHEMA.names} for row in rows]
    table = pa.Table.from_pylist(complete, schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def part_files(path: str | os.PathLike[str]) -> list[Path]:
    """The part files under a sweep's OUT, its records folder, or a run's folder, sorted."""
    root = Path(path)
    if root.is_file():
        return [root]
    if (root / "records").is_dir():
        root = root / "records"
    return sorted(p for p in root.rglob("*.parquet") if not p.name.startswith("."))


def load_records(path: str | os.PathLike[str]) -> pd.DataFrame:
    """All records under ``path`` as one table.

    Args:
        path: a sweep's OUT folder, its ``records`` folder, one run's folder, or one part file.

    Returns:
        A frame with the columns of :data:`COLUMNS`, ordered by run, step, task, level and layer
        depth, with a fresh index.

    Raises:
        FileNotFoundError: there is no such path, or no part file under it.
        RecordsError: a file there is not a geomfast part file; the message names it.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"no such file or folder: {root}")
    files = part_files(root)
    if not files:
        raise FileNotFoundError(f"no records (*.parquet) under {root}")
    try:
        dataset = pyarrow.dataset.dataset([str(f) for f in files], schema=SCHEMA)
        frame = dataset.to_table().to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise RecordsError(f"{_first_foreign(files) or root}: {error}") from error
    if frame["run"].isna().any():  # a file without our columns reads as missing values
        raise RecordsError(f"{_first_foreign(files) or root}: not a table of geomfast records")
    frame["_depth"] = frame["layer"].map(layer_depth)
    order = ["run", "step", "measure", "task", "level", "_depth"]
    return frame.sort_values(order, kind="stable").drop(columns="_depth").reset_index(drop=True)


def _first_foreign(files: list[Path]) -> Path | None:
    """The first file that cannot be read or has other columns than ours."""
    return next((file for file in files if not is_part(file)), None)
