"""Effect on gradient ranks of counting only the first parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.courses import by_trajectory
from geomfast.analysis.trajectories import TRAJECTORY, in_order, select
from geomfast.measures import measures, spec_of
from geomfast.measures.kinds.gradient_ranks import FIRST

#: Measures that are recorded exactly and, with `FIRST` appended, over the first entries only.
MEASURES = tuple(
    name for name in measures() if name + FIRST in [column.name for column in spec_of(name).columns]
)


def truncation(records: pd.DataFrame) -> pd.DataFrame:
    """Gradient ranks over the first 50,000 parameters beside those over all of them.

    arXiv:2602.15997 kept the first 50,000 entries of every gradient, which are mostly embeddings.

    Args:
        records: the table of :func:`geomfast.records.load_records`.

    Returns:
        A row per cell and measure: ``measure``, ``checkpoints`` (that have both), ``exact`` and
        ``first`` (at the last of them), ``ratio`` (median over checkpoints of first over exact)
        and ``correlation`` (Spearman's, of the two trajectories; NaN below three checkpoints or
        where one does not change).
    """
    found = []
    for measure in MEASURES:
        key = [*TRAJECTORY, "step"]
        exact = select(records, measure)[[*key, "value"]]
        first = select(records, measure + FIRST)[[*key, "value"]]
        both = exact.merge(first, on=key, suffixes=("_exact", "_first"))
        for cell, rows in by_trajectory(both):
            whole, part = rows["value_exact"].to_numpy(), rows["value_first"].to_numpy()
            row = (measure, len(rows), whole[-1], part[-1], np.median(part / whole))
            found.append([*cell.values(), *row, _spearman(whole, part)])
    columns = [*TRAJECTORY, "measure", "checkpoints", "exact", "first", "ratio", "correlation"]
    return in_order(pd.DataFrame(found, columns=columns))


def truncation_summary(table: pd.DataFrame) -> dict[str, Any]:
    """Medians over cells of what :func:`truncation` found, by measure.

    Returns:
        For each measure present ``ratio``, its 5th and 95th percentile over cells ``low`` and
        ``high``, ``correlation`` (median of those defined) and ``n`` (cells).
    """
    return {
        str(measure): {
            "ratio": float(rows["ratio"].median()),
            "low": float(rows["ratio"].quantile(0.05)),
            "high": float(rows["ratio"].quantile(0.95)),
            "correlation": float(rows["correlation"].median()),
            "n": len(rows),
        }
        for measure, rows in table.groupby("measure", sort=False)
    }


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(pd.Series(a).corr(pd.Series(b), method="spearman"))
