"""What the values of each measure can be, checked when they are read from a file."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

#: Of rounding, and of ``eps`` in a spectrum's entropy.
_SLACK = 1e-3
_RANK = (1.0, math.inf)
_SHARE = (0.0, 1.0)
_COUNT = (0.0, math.inf)
#: Least and largest value by the name of a record; a NaN stands for a value that there is none of.
RANGES: dict[str, tuple[float, float]] = {
    "rankme": _RANK,
    "fisher_rank": _RANK,
    "fisher_rank_first_50k": _RANK,
    "gradient_covariance_rank": _RANK,
    "gradient_covariance_rank_first_50k": _RANK,
    "accuracy": _SHARE,
    "token_accuracy": _SHARE,
    "choice_accuracy": _SHARE,
    "probe_accuracy": _SHARE,
    "probe_accuracy_majority": _SHARE,
    "probe_accuracy_model": _SHARE,
    "answer_logprob": (-math.inf, 0.0),
    "hessian_top_iterations": _COUNT,
    "llc_acceptance": _SHARE,
    "llc_diverged": _COUNT,
    "llc_ess": _COUNT,
    "llc_rhat": _COUNT,
}


def out_of_range(table: pa.Table) -> Iterator[str]:
    """Values outside of what their measure can be, in words.

    Args:
        table: records, with at least the columns measure, value, stderr and seconds.
    """
    values = table.column("value").to_numpy()
    measures = table.column("measure").combine_chunks().dictionary_encode()
    codes = measures.indices.to_numpy(zero_copy_only=False)
    for code, measure in enumerate(measures.dictionary.to_pylist()):
        if (limits := RANGES.get(measure)) is None:
            continue
        low, high = limits
        own = values[codes == code]
        wrong = (own < low - _SLACK) | (own > high + _SLACK)
        if low == _RANK[0]:  # a matrix of zeros has no dimension
            wrong &= own != 0
        if wrong.any():
            yield f"{measure} {own[wrong][0]:.6g} is outside of [{low:g}, {high:g}]"
    for name in ("stderr", "seconds"):
        found = table.column(name).to_numpy()
        if (found < 0).any():
            yield f"{name} {np.nanmin(found):.6g} is negative"
