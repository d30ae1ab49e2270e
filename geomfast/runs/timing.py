"""Wall time of a run by activity: training, writing, and each measure.

Seconds of measures are the records' own.  Every record holds its part of what was computed together
and ends with its value on the CPU, after the device has finished, so that they add up.  Those of
training and writing stand in ``wall.json`` beside the run's records, as of its last checkpoint.

Measuring is not overlapped with training inside a run.  On a CPU both want all of its cores.  On a
GPU small models wait for Python, which two streams of one process share, and large ones fill the
device by themselves; runs in processes of their own do overlap, so several share a GPU instead
(``--workers``, or ``--gpus-per-run`` on Ray).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from geomfast.files import DamagedFile, read_sealed, write_sealed
from geomfast.measures.catalog import part_of
from geomfast.records import load_records, part_files

TRAINING, WRITING = "training", "writing"
#: Only in estimates: the time before a process's first step is not recorded.
STARTING = "starting"
_FILE = "wall.json"


def write_seconds(records: Path, seconds: Mapping[str, float]) -> None:
    """Write the seconds of a run so far.

    Args:
        records: folder of the run's records.
        seconds: ``train`` and ``write`` among them, of one pass from step 0 to here, whatever
            number of times the run was stopped and resumed. A pass that ends earlier than one
            before it, for a measure that its first checkpoints lack, takes nothing from what is
            noted.
    """
    try:
        noted = read_seconds(records)
    except DamagedFile:
        noted = {TRAINING: 0.0, WRITING: 0.0}
    now = {TRAINING: seconds["train"], WRITING: seconds["write"]}
    write_sealed(records / _FILE, {part: max(took, noted[part]) for part, took in now.items()})


def read_seconds(records: Path) -> dict[str, float]:
    """Seconds of training and writing noted of a run so far; 0 of one that has none.

    Args:
        records: folder of the run's records.

    Raises:
        DamagedFile: what is noted has changed since, or is no time.
    """
    path = records / _FILE
    noted = read_sealed(path) if path.exists() else {}
    seconds = {TRAINING: 0.0, WRITING: 0.0} | noted
    for part, value in seconds.items():
        if part not in (TRAINING, WRITING) or not _is_time(value):
            raise DamagedFile(
                f"{path}: {part!r:.60} {value!r:.60} is no time in seconds; delete the file, which "
                "only says where the time went"
            )
    return seconds


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def wall_time(out: Path, records: pd.DataFrame | None = None) -> pd.DataFrame:
    """Wall time of every run of a sweep by activity.

    Args:
        out: the sweep's folder, or the folder of one run's records.
        records: its records, where they are loaded already.

    Returns:
        One row per run and ``part``: ``seconds``, ``checkpoints`` it was taken at (0 for training
        and writing) and ``share`` of the run's seconds. Parts are training, writing, behaviour and
        the names of measures; a run whose ``wall.json`` is missing has measures only.

    Raises:
        FileNotFoundError, RecordsError: as :func:`geomfast.records.load_records`.
    """
    records = load_records(out) if records is None else records
    names = {name: part_of(name) for name in records["measure"].unique()}
    parts = records.assign(part=records["measure"].map(names))
    groups = parts.groupby(["run", "part"], sort=False)
    rows = groups.agg(seconds=("seconds", "sum"), checkpoints=("step", "nunique")).reset_index()
    noted = [
        {"run": folder.name, "part": part, "seconds": float(value), "checkpoints": 0}
        for folder in sorted({part.parent for part in part_files(out)})
        if (folder / _FILE).exists()
        for part, value in read_seconds(folder).items()
    ]
    table = pd.concat([pd.DataFrame(noted, columns=rows.columns), rows] if noted else [rows])
    table = table.sort_values("run", kind="stable").reset_index(drop=True)
    return table.assign(share=table["seconds"] / table.groupby("run")["seconds"].transform("sum"))
