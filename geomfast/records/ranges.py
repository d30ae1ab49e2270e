"""Ranges of the values of each measure, checked when they are read from a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import pyarrow as pa

from geomfast.measures.catalog import catalog

#: Of rounding, and of ``eps`` in a spectrum's entropy.
_SLACK = 1e-3
_SHARE = (0.0, 1.0)
#: Least and largest value of what a model does with samples, by the name of a record.
_BEHAVIOUR = {
    "accuracy": _SHARE,
    "token_accuracy": _SHARE,
    "choice_accuracy": _SHARE,
    "answer_logprob": (-math.inf, 0.0),
}


@cache
def ranges() -> dict[str, tuple[float, float]]:
    """Least and largest value by the name of a record; NaN stands for a value there is none of."""
    columns = [column for spec in catalog().specs.values() for column in spec.columns]
    return _BEHAVIOUR | {column.name: (column.low, column.high) for column in columns}


def out_of_range(table: pa.Table) -> Iterator[str]:
    """Descriptions of values outside the range of their measure.

    Args:
        table: records, with at least the columns measure, value, stderr and seconds.
    """
    values = table.column("value").to_numpy()
    measures = table.column("measure").combine_chunks().dictionary_encode()
    codes = measures.indices.to_numpy(zero_copy_only=False)
    for code, measure in enumerate(measures.dictionary.to_pylist()):
        if (limits := ranges().get(measure)) is None:
            continue
        low, high = limits
        own = values[codes == code]
        wrong = (own < low - _SLACK) | (own > high + _SLACK)
        if low == 1.0:  # a rank, and a matrix of zeros has no dimension
            wrong &= own != 0
        if wrong.any():
            yield f"{measure} {own[wrong][0]:.6g} is outside of [{low:g}, {high:g}]"
    for name in ("stderr", "seconds"):
        found = table.column(name).to_numpy()
        if (found < 0).any():
            yield f"{name} {np.nanmin(found):.6g} is negative"
