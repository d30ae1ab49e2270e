"""Changes of the loss's curvature along a run."""

from __future__ import annotations

from typing import Any

import pandas as pd

from geomfast.analysis.courses import COURSE, by_trajectory, course, medians
from geomfast.analysis.trajectories import TRAJECTORY, in_order, select

#: Largest eigenvalue and trace, as they are recorded.
MEASURES = ("hessian_top", "hessian_trace")


def hessian(records: pd.DataFrame) -> pd.DataFrame:
    """First, largest and last value of the Hessian's top eigenvalue and trace.

    Args:
        records: the table of :func:`geomfast.records.load_records`.

    Returns:
        A row per cell and ``measure``, with the columns of
        :func:`geomfast.analysis.courses.course`; the error of an eigenvalue is its residual.
    """
    found = [
        cell | {"measure": measure} | course(rows)
        for measure in MEASURES
        for cell, rows in by_trajectory(select(records, measure))
    ]
    return in_order(pd.DataFrame(found, columns=[*TRAJECTORY, "measure", *COURSE]))


def hessian_summary(table: pd.DataFrame) -> dict[str, Any]:
    """Medians over cells of what :func:`hessian` found, by measure.

    Returns:
        For each measure present ``initial``, ``largest``, ``largest_step``, ``final`` and ``n``
        (cells).
    """
    names = ("initial", "largest", "largest_step", "final")
    return {
        str(measure): medians(rows, *names)
        for measure, rows in table.groupby("measure", sort=False)
    }
