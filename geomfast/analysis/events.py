"""When a capability emerges.

The criterion is a low threshold with persistence, as in arXiv:2602.15997: the first checkpoint
from which behaviour stays at or above the threshold for ``persistence`` consecutive checkpoints.
The thresholds and the persistence of 5 are our choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from geomfast.analysis.remember import once
from geomfast.analysis.trajectories import TRAJECTORY, chance_of, first_held, in_order, trajectories

#: Default threshold of each measure in its own unit: half of the answers right, or a
#: (geometric) mean probability of one half for each answer token.
THRESHOLDS = {"accuracy": 0.5, "answer_logprob": math.log(0.5)}

#: For how many consecutive checkpoints it must be held.
PERSISTENCE = 5

COLUMNS = [*TRAJECTORY, "step", "after", "final", "best", "checkpoints", "pending"]


@once
def emergence(
    records: pd.DataFrame,
    *,
    measure: str = "accuracy",
    threshold: float | None = None,
    persistence: int = PERSISTENCE,
    chance: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Emergence step of every task-level of every run.

    Behaviour is compared above chance: with chance level c and probability p (the accuracy, or
    exp of the log-probability per token), (p - c) / (1 - c) must reach the threshold (or exp of
    it).  The correction of the log-probability matters because a model that only knows that a
    parity is 0 or 1, and that the answer then ends, already has log(0.5) / 2 nats per token,
    which is above log(0.5).

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        measure: ``accuracy`` (exact match, 0 to 1) or ``answer_logprob`` (nats per token).
        threshold: in the unit of the measure; from :data:`THRESHOLDS` when None.
        persistence: how many consecutive checkpoints must hold it.  Consecutive means consecutive
            among the checkpoints that were measured: a missing one neither counts nor breaks.
        chance: exact-match chance by task-level name, such as ``{"PAR-1": 0.5}``; 0 if absent.

    Returns:
        One row per run, scale, seed, task and level: ``step`` (NaN if it never emerged; a run
        that ends inside fewer than ``persistence`` checkpoints has not emerged), ``after`` (the
        checkpoint before it: the event lies after that one; NaN at the first), ``final`` and
        ``best`` (last and highest value, not corrected), ``checkpoints`` (how many were measured)
        and ``pending`` (above the threshold at the end, but for too few checkpoints to count).

    Raises:
        ValueError: an unknown measure, ``persistence`` below 1, a threshold that is out of range,
            or a chance level outside [0, 1).
    """
    if measure not in THRESHOLDS:
        raise ValueError(f"measure must be one of {sorted(THRESHOLDS)}, got {measure!r}")
    if persistence < 1:
        raise ValueError(f"persistence must be at least 1, got {persistence}")
    threshold = THRESHOLDS[measure] if threshold is None else threshold
    is_log = measure == "answer_logprob"
    target = math.exp(threshold) if is_log else threshold
    if not 0.0 < target <= 1.0:
        raise ValueError(f"threshold of {measure} is out of range: {threshold}")
    rows = []
    for cell, steps, values in trajectories(records, measure):
        level = chance_of(chance, cell["task"], cell["level"])
        probability = np.exp(values) if is_log else values
        # A hair of slack, so that rounding of (p - c) / (1 - c) cannot undo an exact tie.
        above = (probability - level) / (1.0 - level) >= target - 1e-12
        index = first_held(above, persistence)
        rows.append(
            {name: cell[name] for name in TRAJECTORY}
            | {
                "step": math.nan if index is None else float(steps[index]),
                "after": float(steps[index - 1]) if index else math.nan,
                "final": float(values[-1]),
                "best": float(values.max()),
                "checkpoints": len(values),
                "pending": index is None and bool(above[-1]),
            }
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    # Of no rows, too, so that tables without behaviour can be compared with like any other.
    return in_order(table.astype({"step": float, "after": float, "pending": bool}))
