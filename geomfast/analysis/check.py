"""Records that say a thing twice, or two things at once."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from geomfast.analysis.trajectories import KEY
from geomfast.measures.spec import FAILED
from geomfast.records import RecordsError
from geomfast.testbed.tasks.names import task_level

#: How many of what is wrong a message lists.
LISTED = 10


class ContradictoryRecords(RecordsError, ValueError):
    """Records that no analysis can use as they are; the message lists what is wrong."""


def check(records: pd.DataFrame) -> None:
    """Refuse records that are duplicate or contradictory.

    A sweep never writes a value twice, resumed or not, since the name of a part file is fixed by
    its step and measures.  What is there twice was copied together from several places.

    Args:
        records: the table of :func:`geomfast.records.load_records`.

    Raises:
        ContradictoryRecords: a value is recorded more than once, equal or not; a run has two
            scales or seeds, or a step of it two weights; or a measure of one run was taken with
            several settings, or on several samples of one task-level; or a checkpoint has fewer
            values of a measure than others of its run.  The message lists them by run, step,
            task-level, layer and measure.
    """
    found = [*_of_runs(records), *_values(records), *_settings(records), *_short(records)]
    if not found:
        return
    more = [f"and {len(found) - LISTED} more"] if len(found) > LISTED else []
    lines = "\n  ".join([*found[:LISTED], *more])
    raise ContradictoryRecords(f"duplicate or contradictory records:\n  {lines}")


def _values(records: pd.DataFrame) -> Iterator[str]:
    """Values recorded more than once."""
    twice = records[records.duplicated(KEY, keep=False)]
    for _, rows in twice.groupby(KEY, sort=False):
        first = rows.iloc[0]
        cell = task_level(first["task"], first["level"])
        place = ", ".join(filter(None, [cell, first["layer"], first["measure"]]))
        several = rows["settings"].nunique() > 1
        values = [
            f"{row['value']:.10g}" + (f" (settings {row['settings']})" if several else "")
            for row in rows.to_dict("records")
        ]
        what = " and ".join(values) if len(set(values)) > 1 else f"{len(values)} times {values[0]}"
        yield f"{first['run']}, step {first['step']}, {place}: {what}"


def _of_runs(records: pd.DataFrame) -> Iterator[str]:
    """Runs that are two runs."""
    for name, by in (("scale", ["run"]), ("seed", ["run"]), ("weights", ["run", "step"])):
        for row, values in _several(records, by, name):
            place = f"{row['run']}, step {row['step']}" if "step" in by else row["run"]
            yield f"{place}: {name} {' and '.join(values)}"


def _settings(records: pd.DataFrame) -> Iterator[str]:
    """Measures taken in several ways within one run."""
    for row, values in _several(records, ["run", "measure"], "settings"):
        yield f"{row['run']}, {row['measure']}: settings {' and '.join(values)}"
    for row, values in _several(records, ["run", "task", "level", "measure"], "data"):
        cell = task_level(row["task"], row["level"])
        yield f"{row['run']}, {cell}, {row['measure']}: samples {' and '.join(values)}"


def _short(records: pd.DataFrame) -> Iterator[str]:
    """Checkpoints with some of a measure's values only, where none failed."""
    by = ["run", "measure", "step"]
    sizes = records.groupby(by, sort=False).size()
    failed = records.loc[records["backend"] == FAILED, by].drop_duplicates()
    sizes = sizes.drop(pd.MultiIndex.from_frame(failed))
    most = sizes.groupby(level=["run", "measure"], sort=False).transform("max")
    for (run, measure, step), size in sizes[sizes < most].items():  # pyright: ignore[reportGeneralTypeIssues]
        whole = most[run, measure, step]
        yield f"{run}, step {step}, {measure}: {size} of {whole} values; delete that part"


def _several(
    records: pd.DataFrame, by: list[str], name: str
) -> Iterator[tuple[pd.Series, list[str]]]:
    """Groups of rows equal in ``by`` but not in ``name``: a row of each, and its values."""
    kinds = records[[*by, name]].drop_duplicates()
    mixed = kinds[kinds.duplicated(by, keep=False)]
    for _, rows in mixed.groupby(by, sort=False):
        yield rows.iloc[0], [str(value) for value in rows[name]]
