"""Rises above chance that their standard errors support and that persist."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.trajectories import (
    TRAJECTORY,
    chance_of,
    first_held,
    in_order,
    select,
    stretches,
)
from geomfast.testbed.tasks.names import task_level

#: Standard errors that a value is above chance, and above the first value.
ERRORS = 2.0
#: For how many consecutive checkpoints.
PERSISTENCE = 3
#: Shares of the way from chance to all answers right, of the two thresholds compared.
LEAVES, TENTH = 0.0, 0.1

COLUMNS = [*TRAJECTORY, "chance", "step", "after", "pending", "kept", "initial", "final"]
COLUMNS += ["best", "stderr", "early", "checkpoints", "above", "below", "expected"]


def rises(
    records: pd.DataFrame,
    *,
    chance: Mapping[str, float],
    measure: str = "accuracy",
    share: float = LEAVES,
    errors: float = ERRORS,
    persistence: int = PERSISTENCE,
    from_first: bool = True,
) -> pd.DataFrame:
    """When every task of every run rises above chance.

    With chance c and the value p, known to a standard error e, a checkpoint is above a share s of
    the way from chance to all answers right if p - ``errors`` e > c + s (1 - c).  A task rises at
    the first of ``persistence`` consecutive checkpoints that are, and that are also above the first
    value by as many errors of the difference: some answers of an untrained model are right more
    often than by chance, for instance where it prefers short ones.  The difference is taken as
    that of independent samples; it is of the same questions, so that its error is rather smaller.

    Args:
        records: behaviour, with the columns of :data:`geomfast.records.COLUMNS`.
        chance: rate of blind guesses by task; tasks without one are not judged.
        measure: a share, such as ``accuracy`` or ``accuracy_by_size``.
        share: s; :data:`LEAVES` for any rise, :data:`TENTH` for a tenth of the way.
        errors: how many standard errors count.
        persistence: how many consecutive checkpoints.
        from_first: whether the first value has to be left, too.

    Returns:
        One row per run, scale, seed, task and level: ``chance``; ``step`` of the rise (NaN if there
        is none) and ``after`` (the checkpoint before it; NaN at the first); ``pending`` (above at
        the end, but for too few checkpoints); ``kept`` (risen, and above at the last checkpoint);
        ``initial``, ``final`` and ``best`` value, and ``stderr`` of the final one; ``early`` (no
        rise, but above from a first checkpoint that is not step 0: it may have risen before);
        ``checkpoints``; ``above`` and ``below`` (how many checkpoints are above, and below, chance
        by so many errors, persistent or not) and ``expected`` (how many of either there would be
        by guessing at every checkpoint).

    Raises:
        ValueError: ``persistence`` below 1, or a share or number of errors out of range.
    """
    if persistence < 1:
        raise ValueError(f"persistence must be at least 1, got {persistence}")
    if not 0.0 <= share < 1.0:
        raise ValueError(f"share must be at least 0 and below 1, got {share}")
    if not 0.0 <= errors < math.inf:
        raise ValueError(f"errors must be a finite number from 0, got {errors}")
    rows = select(records, measure)
    found: list[dict[str, Any]] = []
    for key, at in stretches(rows, TRAJECTORY):
        own = rows.iloc[at]
        cell = dict(zip(TRAJECTORY, key, strict=True))
        known = task_level(cell["task"], cell["level"]) in chance
        level = chance_of(chance, cell["task"], cell["level"]) if known else math.nan
        values, spread = own["value"].to_numpy(dtype=float), own["stderr"].to_numpy(dtype=float)
        steps = own["step"].to_numpy()
        target = level + share * (1.0 - level)
        above = values - errors * spread > target  # False where chance or error is not known
        rise = values - values[0] > errors * np.hypot(spread, spread[0])
        held = above & rise if from_first else above
        index = first_held(held, persistence)
        found.append(
            cell
            | {
                "chance": level,
                "step": math.nan if index is None else float(steps[index]),
                "after": float(steps[index - 1]) if index else math.nan,
                "pending": index is None and bool(held[-1]),
                "kept": index is not None and bool(held[-1]),
                "initial": float(values[0]),
                "final": float(values[-1]),
                "best": float(values.max()),
                "stderr": float(spread[-1]),
                "early": index is None and steps[0] > 0 and first_held(above, persistence) == 0,
                "checkpoints": len(values),
                "above": int((values - errors * spread > level).sum()),
                "below": int((values + errors * spread < level).sum()),
                "expected": len(values) * 0.5 * math.erfc(errors / math.sqrt(2.0)),
            }
        )
    table = pd.DataFrame(found, columns=COLUMNS)
    flags = dict.fromkeys(("pending", "kept", "early"), bool)
    return in_order(table.astype({"step": float, "after": float} | flags))
