"""What the parts of a run's records hold already."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet

from geomfast.records import is_part, parse_part_name, part_files
from geomfast.sweep.plan import PlanError


def recorded(folder: Path) -> dict[int, set[str]]:
    """Measures in the parts of a run, by checkpoint step.

    Args:
        folder: of the run's records, which need not exist.

    Raises:
        PlanError: a file there is not a part of them.
    """
    found: dict[int, set[str]] = {}
    for part in part_files(folder) if folder.is_dir() else []:
        named = parse_part_name(part.name)
        if named is None or not is_part(part):
            raise PlanError(f"{part} is not a part of the records; move it away and run again")
        step, names = named
        found.setdefault(step, set()).update(names)
    return found


def of_other_weights(folder: Path, step: int, weights: str) -> Path | None:
    """A part of a checkpoint's records that was taken of other weights than it has now.

    Args:
        folder: of the run's records.
        step: of the checkpoint.
        weights: their hash.
    """
    for part in folder.glob(f"step-{step:08d}.*.parquet"):
        before = pyarrow.parquet.read_table(part, columns=["weights"])["weights"][0].as_py()
        if before != weights:
            return part
    return None
