"""How the curvature of the loss changes along a run."""

from __future__ import annotations

from typing import Any

import pandas as pd

from geomfast.analysis.trajectories import CELL, in_order, select

#: Largest eigenvalue and trace, as they are recorded.
MEASURES = ("hessian_top", "hessian_trace")
COLUMNS = [
    *CELL,
    "measure",
    "checkpoints",
    "initial",
    "largest",
    "largest_step",
    "final",
    "stderr",
]


def hessian(records: pd.DataFrame) -> pd.DataFrame:
    """First, largest and last value of the Hessian's top eigenvalue and trace.

    Args:
        records: the table of :func:`geomfast.records.load_records`.

    Returns:
        A row per cell and measure: ``measure``, ``checkpoints``, ``initial``, ``largest`` and the
        step it is first reached at ``largest_step``, ``final`` and its error ``stderr`` (of the
        eigenvalue: its residual).
    """
    found = [
        dict(zip(CELL, cell, strict=True)) | {"measure": measure} | extremes(rows)
        for measure in MEASURES
        for cell, rows in select(records, measure).groupby(CELL, sort=False)
    ]
    return in_order(pd.DataFrame(found, columns=COLUMNS))


def extremes(rows: pd.DataFrame) -> dict[str, Any]:
    """Those columns of one trajectory, from its records by step; there is at least one."""
    values = rows["value"].to_numpy(dtype=float)
    largest = int(values.argmax())
    return {
        "checkpoints": len(rows),
        "initial": float(values[0]),
        "largest": float(values[largest]),
        "largest_step": int(rows["step"].iloc[largest]),
        "final": float(values[-1]),
        "stderr": float(rows["stderr"].iloc[-1]),
    }


def hessian_summary(table: pd.DataFrame) -> dict[str, Any]:
    """Medians over cells of what :func:`hessian` found, by measure.

    Returns:
        For each measure present ``initial``, ``largest``, ``largest_step``, ``final`` and ``n``
        (cells).
    """
    names = ("initial", "largest", "largest_step", "final")
    return {
        str(measure): {name: float(rows[name].median()) for name in names} | {"n": len(rows)}
        for measure, rows in table.groupby("measure", sort=False)
    }
