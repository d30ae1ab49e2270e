"""In which order do the blocks collapse, where a strict order does not survive depth?

A model of many blocks is hardly ever top-down from the last block to the first
(:mod:`geomfast.analysis.topdown`): one pair out of order is enough. What may be left is asked here:
whether the last half of the blocks is earlier than the first half, how well depth and step agree
(Kendall's tau), both also without the first block, and by the step of the floor as well. The
half-collapse step is placed between checkpoints on a straight line of log RankMe; blocks whose
steps are closer than those checkpoints are apart are tied.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.collapse import MIN_DEPTH, floor_of
from geomfast.analysis.intervals import share_over_seeds
from geomfast.analysis.remember import once
from geomfast.analysis.trajectories import TRAJECTORY, in_order, trajectories
from geomfast.records import FINAL, layer_depth

HALF_STEP, FLOOR_STEP = "half-collapse", "floor"
#: Which half of the blocks is earlier.
LATE, EARLY, TOGETHER = "last half", "first half", "together"

DEPTH_COLUMNS = [*TRAJECTORY, "by", "blocks", "tau", "tau_but_first", "first_half", "last_half"]
DEPTH_COLUMNS += ["earlier", "earlier_but_first", "first_block_before_second"]
BY_BLOCKS = ["by", "blocks", "scales", "runs", "n", "tau", "tau_but_first", "last_half_first"]
BY_BLOCKS += ["low", "high", "together", "last_half_first_but_first", "first_block_before_second"]


@once
def depth_order(records: pd.DataFrame, *, min_depth: float = MIN_DEPTH) -> pd.DataFrame:
    """Order of the blocks of every task-level of every run, by half-collapse and by floor.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        min_depth: a block whose floor is less than this share below its initial value has not
            collapsed; a task-level with such a block is left out.

    Returns:
        Two rows per run, scale, seed, task and level with three blocks or more, one for each
        ``by``: ``blocks``; ``tau``, Kendall's between depth and step, ties counting as 0 (-1 from
        the last block to the first); ``first_half`` and ``last_half``, mean steps of these blocks
        (the middle one of an odd number is in neither); ``earlier``: :data:`LATE`, :data:`EARLY`,
        or :data:`TOGETHER` where they are closer than checkpoints are; ``tau_but_first`` and
        ``earlier_but_first``, the same of the blocks after the first; and
        ``first_block_before_second``.
    """
    cells: dict[tuple[Any, ...], dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for cell, steps, values in trajectories(records, "rankme"):
        if cell["layer"] not in ("", FINAL) and len(steps) > 1:
            key = tuple(cell[name] for name in TRAJECTORY)
            cells.setdefault(key, {})[cell["layer"]] = steps, values
    rows = []
    for key, layers in cells.items():
        if len(layers) < 3:
            continue
        found = [_steps_of(*layers[name], min_depth) for name in sorted(layers, key=layer_depth)]
        if any(one is None for one in found):
            continue
        cell = dict(zip(TRAJECTORY, key, strict=True))
        for by, pair in zip((HALF_STEP, FLOOR_STEP), np.array(found).swapaxes(0, 1), strict=True):
            rows.append(cell | {"by": by} | _order(pair[:, 0], pair[:, 1]))
    return in_order(pd.DataFrame(rows, columns=DEPTH_COLUMNS))


def _steps_of(
    steps: np.ndarray, values: np.ndarray, min_depth: float
) -> list[tuple[float, float]] | None:
    """Half-collapse step and floor step of a block, each with the distance of checkpoints there."""
    index, fall = floor_of(steps, values)
    initial, floor = fall["initial"], fall["floor"]
    if not fall["depth"] >= min_depth or floor <= 0:
        return None
    middle = math.sqrt(initial * floor)
    at = int(np.argmax(values[: index + 1] <= middle))
    share = math.log(values[at - 1] / middle) / math.log(values[at - 1] / values[at])
    apart = float(steps[at] - steps[at - 1])
    beside = float(steps[index] - steps[index - 1])
    return [(float(steps[at - 1]) + share * apart, apart), (float(steps[index]), beside)]


def _order(at: np.ndarray, apart: np.ndarray) -> dict[str, Any]:
    blocks = len(at)
    halves = [_halves(at, apart), _halves(at[1:], apart[1:])]
    return {
        "blocks": blocks,
        "tau": _tau(at, apart),
        "tau_but_first": _tau(at[1:], apart[1:]),
        "first_half": halves[0][0],
        "last_half": halves[0][1],
        "earlier": halves[0][2],
        "earlier_but_first": halves[1][2],
        "first_block_before_second": bool(at[1] - at[0] >= max(apart[0], apart[1])),
    }


def _tau(at: np.ndarray, apart: np.ndarray) -> float:
    """Pairs in order minus pairs out of order, over all pairs; ties are neither."""
    later = at[None, :] - at[:, None]
    distance = np.maximum(apart[None, :], apart[:, None])
    signs = np.where(np.abs(later) < distance, 0.0, np.sign(later))
    pairs = np.triu_indices(len(at), 1)
    return float(signs[pairs].mean())


def _halves(at: np.ndarray, apart: np.ndarray) -> tuple[float, float, str]:
    half = len(at) // 2
    first, last = float(at[:half].mean()), float(at[len(at) - half :].mean())
    # Means of interpolated steps are finer than the steps themselves; half a distance is not.
    if abs(last - first) < 0.5 * float(apart.max()):
        return first, last, TOGETHER
    return first, last, LATE if last < first else EARLY


def depth_summary(table: pd.DataFrame) -> pd.DataFrame:
    """The orders of :func:`depth_order` by number of blocks.

    Returns:
        A row per ``by`` and ``blocks``: the ``scales`` and number of ``runs``, ``n`` task-levels of
        runs, mean ``tau`` and ``tau_but_first``, share ``last_half_first`` with its 95% interval
        over seeds (``low``, ``high``), share ``together``, share ``last_half_first_but_first`` of
        the blocks after the first, and share ``first_block_before_second``.
    """
    rows = []
    for (by, blocks), part in table.groupby(["by", "blocks"], sort=False):
        late = part["earlier"] == LATE
        share = share_over_seeds(late, part["run"], part["scale"])
        rows.append(
            {
                "by": by,
                "blocks": blocks,
                "scales": ", ".join(dict.fromkeys(part["scale"])),
                "runs": part["run"].nunique(),
                "n": len(part),
                "tau": part["tau"].mean(),
                "tau_but_first": part["tau_but_first"].mean(),
                "last_half_first": share.value,
                "low": share.low,
                "high": share.high,
                "together": (part["earlier"] == TOGETHER).mean(),
                "last_half_first_but_first": (part["earlier_but_first"] == LATE).mean(),
                "first_block_before_second": part["first_block_before_second"].mean(),
            }
        )
    found = pd.DataFrame(rows, columns=BY_BLOCKS)
    return found.sort_values(["by", "blocks"], ascending=[False, True], ignore_index=True)
