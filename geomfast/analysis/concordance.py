"""Fine test of early geometry: does it predict which of two task-levels emerges first?

Two task-levels of one run are put in order by their emergence and by their early geometry
(:mod:`geomfast.analysis.difficulty`).  Whether more RankMe means earlier or later is not known
beforehand; it is learned for each pair from pairs of the same run that are of different
difficulty levels and share no task-level with it.  Otherwise a pair would be in the data that it
is predicted from, and geometry that tells nothing would be right more often than not.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.trajectories import in_order
from geomfast.testbed.tasks.names import task_level

PAIR_COLUMNS = ["run", "scale", "seed", "first", "second", "level", "emerged", "geometry", "agrees"]
CLASS_COLUMNS = ["run", "scale", "seed", "level", "concordant", "discordant", "undecided"]
SWAP_COLUMNS = ["first", "second", "scale", "other", "seed", "right", "right_other", "reversed"]


def pairs(table: pd.DataFrame, *, geometry: str = "early") -> pd.DataFrame:
    """Every pair of task-levels of every run, in the order of emergence and of geometry.

    Args:
        table: the rows of :func:`geomfast.analysis.difficulty.early_geometry`.
        geometry: ``early`` or ``initial``.

    Returns:
        One row per run and pair ``first``, ``second`` (names of task-levels): ``level`` (of both;
        0 where they differ), ``emerged`` (1 if the first emerged first, -1 if the second, 0 if at
        the same checkpoint or both never), ``geometry`` (the same as its RankMe tells, in the
        direction learned from other pairs; 0 where two values are equal or there was nothing to
        learn from) and ``agrees`` (both are decided and the same).
    """
    found = []
    for (run, scale, seed), rows in in_order(table).groupby(["run", "scale", "seed"], sort=False):
        names = [task_level(*key) for key in zip(rows["task"], rows["level"], strict=True)]
        levels, when = rows["level"].to_numpy(), rows["emerged"].to_numpy()
        rank = rows[geometry].to_numpy()
        a, b = (
            np.array(list(itertools.combinations(range(len(rows)), 2)), dtype=int).reshape(-1, 2).T
        )
        emerged = (when[a] < when[b]).astype(int) - (when[a] > when[b]).astype(int)
        lower = np.sign(rank[b] - rank[a]).astype(int)
        across = levels[a] != levels[b]
        direction = _learned(a, b, np.where(across, emerged * lower, 0))
        agrees = (emerged != 0) & (emerged == direction * lower)
        ends = ([names[i] for i in a], [names[i] for i in b])
        its = (*ends, np.where(across, 0, levels[a]), emerged, direction * lower, agrees)
        columns = zip(PAIR_COLUMNS, (run, scale, seed, *its), strict=True)
        found.append(pd.DataFrame(dict(columns)))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=PAIR_COLUMNS)


def _learned(a: np.ndarray, b: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Sign of the votes of all pairs that share no task-level with a pair, for each pair."""
    if len(votes) == 0:
        return votes
    with_each = np.bincount(a, votes, b.max() + 1) + np.bincount(b, votes, b.max() + 1)
    others = votes.sum() - with_each[a] - with_each[b] + votes  # its own was taken off twice
    return np.sign(others).astype(int)


def decided(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`pairs` in which both emergence and geometry are ordered."""
    return table[(table["emerged"] != 0) & (table["geometry"] != 0)]


def within_class(table: pd.DataFrame) -> pd.DataFrame:
    """Concordance of pairs of one difficulty level, run by run.

    Args:
        table: the rows of :func:`pairs`.

    Returns:
        One row per run and ``level`` (0: pairs of different levels): how many are ``concordant``,
        ``discordant`` and ``undecided``.
    """
    found: list[list[Any]] = []
    for key, rows in table.groupby(["run", "scale", "seed", "level"], sort=False):
        sure = decided(rows)
        concordant = int(sure["agrees"].sum())
        found.append([*key, concordant, len(sure) - concordant, len(rows) - len(sure)])
    return pd.DataFrame(found, columns=CLASS_COLUMNS)


def swaps(table: pd.DataFrame) -> pd.DataFrame:
    """Pairs whose order of emergence reverses between two scales, and what geometry says of them.

    A reversal counts if all seeds of a scale that decide the order agree on it, so that it is the
    scale that reverses it and not the seed; undecided seeds do not vote.

    Args:
        table: the rows of :func:`pairs`.

    Returns:
        One row per pair ``first``, ``second``, two scales ``scale`` and ``other``, and ``seed``
        that both have: ``right`` and ``right_other`` (geometry tells the order of that scale) and
        ``reversed`` (both: geometry reverses with emergence; by chance one in four).
        ``attrs["compared"]`` is how many pairs have an order at both of two scales.
    """
    key = ["first", "second"]
    ordered = table[table["emerged"] != 0].groupby([*key, "scale"], sort=False)["emerged"]
    votes = ordered.agg(["min", "max"])
    order = votes.loc[votes["min"] == votes["max"], "min"].unstack("scale")
    told = table[[*key, "scale", "seed", "geometry"]]
    found, compared = [], 0
    # The rows are in the order of scales.
    scales = [scale for scale in dict.fromkeys(table["scale"]) if scale in order]
    for scale, other in itertools.combinations(scales, 2):
        both = order[[scale, other]].dropna()
        compared += len(both)
        both = both[both[scale] == -both[other]].reset_index()
        # Only seeds that have the pair at both scales: one that lacks it tells nothing.
        rows = both.merge(told[told["scale"] == scale], on=key)
        rows = rows.merge(told[told["scale"] == other], on=[*key, "seed"], suffixes=("", "_other"))
        right = rows["geometry"] == rows[scale]
        right_other = rows["geometry_other"] == rows[other]
        rows = rows[[*key, "seed"]].assign(scale=scale, other=other, right=right)
        found.append(rows.assign(right_other=right_other, reversed=right & right_other))
    result = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=SWAP_COLUMNS)
    result = result[SWAP_COLUMNS]
    result.attrs["compared"] = compared
    return result
