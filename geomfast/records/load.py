"""All records of a folder as one table."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa

from geomfast.labels import layer_depth
from geomfast.records.part import read_part
from geomfast.records.schema import RecordsError


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
        TypeError, ValueError: path is no path, or empty.
        FileNotFoundError: there is no such path, or no part file under it.
        RecordsError: a file there is not a geomfast part file, or has changed since it was
            written; the message names it.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be that of a file or folder, not {type(path).__name__}")
    if not os.fspath(path):
        raise ValueError("path is empty: it must be that of a file or folder")
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"no such file or folder: {root}")
    files = part_files(root)
    if not files:
        raise FileNotFoundError(f"no records (*.parquet) under {root}")
    frame = pa.concat_tables(read_part(file) for file in files).to_pandas()
    depths = {label: _depth(label, root) for label in frame["layer"].unique()}
    frame["_depth"] = frame["layer"].map(depths)
    order = ["run", "step", "measure", "task", "level", "_depth"]
    return frame.sort_values(order, kind="stable").drop(columns="_depth").reset_index(drop=True)


def _depth(label: str, root: Path) -> float:
    try:
        return layer_depth(label)
    except ValueError as error:
        raise RecordsError(f"{root}: no layer is called {label!a:.60}") from error
