"""Measures without an analysis of their own, those of other packages among them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from geomfast.analysis.courses import COURSE, course, medians
from geomfast.analysis.hessian import MEASURES as CURVATURES
from geomfast.analysis.trajectories import TRAJECTORY, in_order, select, stretches
from geomfast.measures import MeasureSpec, catalog
from geomfast.records import layer_depth

#: Measures that have one.
ANALYSED = ("rankme", "probe_accuracy", "fisher_rank", "gradient_covariance_rank", "llc")
ANALYSED += CURVATURES


def others() -> list[MeasureSpec]:
    """The measures of the catalogue that have none."""
    return [spec for name, spec in catalog().specs.items() if name not in ANALYSED]


def value_columns(spec: MeasureSpec) -> tuple[str, ...]:
    """Names of a measure's values: its own, or all it writes where it has no value of its name."""
    names = tuple(column.name for column in spec.columns)
    return (spec.name,) if spec.name in names else names


def other_measures(records: pd.DataFrame) -> pd.DataFrame:
    """First, largest and last value of every other measure.

    Args:
        records: the table of :func:`geomfast.records.load_records`.

    Returns:
        A row per cell, ``measure`` (the name of its values) and ``layer``, layers from first to
        last, with the columns of :func:`geomfast.analysis.courses.course`.
    """
    names, found = [*TRAJECTORY, "layer"], []
    there = set(records["measure"].unique())
    for measure in (name for spec in others() for name in value_columns(spec) if name in there):
        rows = select(records, measure)
        for key, at in stretches(rows, names):
            cell = dict(zip(names, key, strict=True)) | {"measure": measure}
            found.append(cell | course(rows.iloc[at]))
    found.sort(key=lambda row: layer_depth(row["layer"]))
    return in_order(pd.DataFrame(found, columns=[*TRAJECTORY, "measure", "layer", *COURSE]))


def other_summary(table: pd.DataFrame) -> dict[str, Any]:
    """Medians over cells of what :func:`other_measures` found, of the last layer, by measure.

    Returns:
        For each measure present ``initial``, ``largest``, ``largest_step``, ``final``, ``n``
        (cells) and ``layer`` (empty where it has none).
    """
    columns = ("initial", "largest", "largest_step", "final")
    last = table.drop_duplicates([*TRAJECTORY, "measure"], keep="last")
    return {
        str(measure): medians(rows, *columns) | {"layer": str(rows["layer"].iloc[0])}
        for measure, rows in last.groupby("measure", sort=False)
    }
