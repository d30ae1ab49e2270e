"""Reads which measures a run's records already contain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

from geomfast.measures.spec import FAILED
from geomfast.records import RecordsError, parse_part_name, part_files, read_part
from geomfast.runs.errors import PlanError, RunError


def recorded(folder: Path, last: int | None = None) -> dict[int, set[str]]:
    """Measures in the parts of a run, by checkpoint step.

    Args:
        folder: of the run's records, which need not exist.
        last: step of the last checkpoint that there can be; None where that is not known.

    Raises:
        PlanError: a file there is not a part of them, has changed since it was written, lacks
            values that others have, or is of a step beyond the last; the message names it.
    """
    found: dict[int, set[str]] = {}
    counts: dict[Path, Counter[tuple[str, str]]] = {}
    for part in part_files(folder) if folder.is_dir() else []:
        named = parse_part_name(part.name)
        if named is None:
            raise PlanError(f"{part} is not a part of the records; move it away and run again")
        step, names = named
        if last is not None and step > last:
            raise PlanError(
                f"{part} is of step {step}, and the last is {last}; move it away and run again"
            )
        counts[part] = _values(part)
        found.setdefault(step, set()).update(names)
    _refuse_incomplete(counts)
    return found


def of_other_weights(folder: Path, step: int, weights: str | set[str]) -> Path | None:
    """A part of a checkpoint's records that was measured on other weights than the current ones.

    Args:
        folder: of the run's records.
        step: of the checkpoint.
        weights: their hash, or those of all members that are measured together.

    Raises:
        RecordsError: a part is damaged.
    """
    expected = {weights} if isinstance(weights, str) else weights
    for part in folder.glob(f"step-{step:08d}.*.parquet"):
        if set(read_part(part).column("weights").unique().to_pylist()) != expected:
            return part
    return None


def _values(part: Path) -> Counter[tuple[str, str]]:
    """Number of values in a part by run and record name, without failed ones."""
    try:
        stat = part.stat()
        return _counted(part, stat.st_ino, stat.st_mtime_ns, stat.st_size)
    except (RecordsError, OSError) as error:
        raise PlanError(f"{error}; delete it and run again to measure it anew") from error


@lru_cache(maxsize=100_000)
def _counted(part: Path, *_version: int) -> Counter[tuple[str, str]]:
    # Work is planned more than once before it begins, from files that are the same.
    table = read_part(part).select(["run", "measure", "backend"]).to_pydict()
    keys = [*zip(table["run"], table["measure"], strict=True)]
    failed = {key for key, backend in zip(keys, table["backend"], strict=True) if backend == FAILED}
    return Counter(key for key in keys if key not in failed)


def _refuse_incomplete(counts: dict[Path, Counter[tuple[str, str]]]) -> None:
    """Refuse a part with fewer values of a kind than other checkpoints have."""
    most: dict[tuple[str, str], int] = {}
    for own in counts.values():
        for key, count in own.items():
            most[key] = max(count, most.get(key, 0))
    for part, own in counts.items():
        for (run, measure), count in own.items():
            if count < most[run, measure]:
                raise PlanError(
                    f"{part} holds {count} of {most[run, measure]} values of {measure} of {run}; "
                    "delete it and run again to measure it anew"
                )


def refuse_gone(records: Path, lacking: Collection[int]) -> None:
    """Raise if records that a run has written are missing at its end.

    Args:
        records: folder of them.
        lacking: steps that have been measured and have no records, or not all.

    Raises:
        RunError: there are some.
    """
    if lacking:
        raise RunError(
            f"{records}: records of {len(lacking)} checkpoints, the first of step {min(lacking)}, "
            "have been removed or moved while the run went on; run the same command again"
        )
