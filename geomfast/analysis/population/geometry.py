"""Does early geometry tell the seeds that will succeed from those that will not?

Within one scale all members have the same architecture and training; what parts them is the seed.
For each checkpoint and layer the area under the ROC curve (AUC) says how often a member that
succeeds in the end has a higher value there than one that does not: 1/2 is no better than chance,
and 0 as good as 1.  With many checkpoints and layers some AUC is far from 1/2 by chance; members
are therefore dealt to success and failure at random, with their whole trajectories, and each AUC is
held against the furthest of all (Westfall and Young 1993).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from geomfast.analysis.population.summary import ALPHA, LEAST_SEEDS, SUCCESS, one_population
from geomfast.analysis.population.table import LOSS, SCORE
from geomfast.analysis.trajectories import select
from geomfast.records import layer_depth

#: Fewest members that succeed, and that fail.
LEAST_OF_EACH = 5
#: Ways of dealing success to the members.
PERMUTATIONS = 2_000

GEOMETRY = "rankme"
GEOMETRY_COLUMNS = ["scale", "measure", "layer", "step", "succeed", "fail"]
GEOMETRY_COLUMNS += ["auc", "low", "high", "p", "family_p", "arrived", "early"]
BEST_COLUMNS = [*GEOMETRY_COLUMNS, "cells", "loss_auc", "loss_p", "reason"]


def geometry(
    records: pd.DataFrame,
    table: pd.DataFrame,
    *,
    success: float = SUCCESS,
    level: int | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """AUC of RankMe, and of the loss beside it, against final success.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        table: rows of :func:`geomfast.analysis.population.from_records` of one task and length.
        success: score from which a member has succeeded.
        level: length whose samples RankMe is of; when None the shortest that has one, which is
            the one closest to training.
        permutations: behind p-values.
        seed: of them.

    Returns:
        One row per scale, measure (:data:`GEOMETRY`, or the loss at the length judged), layer and
        step, for scales where at least :data:`LEAST_OF_EACH` finished members succeed and as many
        fail, and checkpoints that all of them have: how many ``succeed`` and ``fail``, ``auc``
        with ``low`` and ``high`` (95%, Newcombe 2006, method 5, which has a width also at 0 and
        1), ``p`` (of an AUC as far from 1/2), ``family_p`` (of one as far anywhere among the
        early rows of the same measure and scale; NaN for rows that are not early), ``arrived``
        (share of those that succeed in the end which have succeeded by then) and ``early``
        (nobody has).

    Raises:
        ValueError: several populations in one table, or no permutations.
    """
    one_population(table)
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    task, length = str(table["task"].iloc[0]), int(table["length"].iloc[0])
    its = records[records["task"] == task]
    ranks = select(its, GEOMETRY)
    # The shortest length of each: points of an axis may be trained on other lengths.
    least = ranks.groupby("scale")["level"].transform("min") if level is None else level
    ranks = ranks[ranks["level"] == least]
    loss = select(its[its["level"] == length], LOSS)
    scores = select(its[its["level"] == length], SCORE)
    generator = np.random.default_rng(seed)
    found = []
    for scale, members in table[table["score"].notna()].groupby("scale", sort=False):
        won = members.set_index("seed")["score"] >= success
        if min(won.sum(), (~won).sum()) < LEAST_OF_EACH or len(won) < LEAST_SEEDS:
            continue
        arrived = _arrived(scores[scores["scale"] == scale], won, success)
        for rows in (ranks, loss):
            wide = _aligned(rows[rows["scale"] == scale], won.index)
            if not wide.empty:
                found.append(_judged(str(scale), wide, won, arrived, permutations, generator))
    if not found:
        return pd.DataFrame(columns=GEOMETRY_COLUMNS)
    return pd.concat(found, ignore_index=True)[GEOMETRY_COLUMNS]


def best_early(found: pd.DataFrame) -> pd.DataFrame:
    """The early checkpoint and layer of every scale whose RankMe parts the members furthest.

    Args:
        found: rows of :func:`geometry`.

    Returns:
        One row per scale, with ``cells`` (how many it was chosen from, which ``family_p`` takes
        into account) and ``loss_auc`` and ``loss_p`` of the loss at the same checkpoint (NaN
        where that was not recorded).
    """
    rows = []
    for scale, its in found.groupby("scale", sort=False):
        early = its[its["early"] & (its["measure"] == GEOMETRY)]
        if early.empty:
            empty = dict.fromkeys(BEST_COLUMNS, math.nan)
            reason = "no checkpoint with RankMe before the first success"
            rows.append(empty | {"scale": scale, "cells": 0, "reason": reason})
            continue
        row: dict[str, Any] = early.loc[(early["auc"] - 0.5).abs().idxmax()].to_dict()
        loss = its[(its["measure"] == LOSS) & (its["step"] == row["step"])]
        row["loss_auc"] = float(loss["auc"].iloc[0]) if len(loss) else math.nan
        row["loss_p"] = float(loss["p"].iloc[0]) if len(loss) else math.nan
        rows.append(row | {"cells": len(early), "reason": ""})
    return pd.DataFrame(rows, columns=BEST_COLUMNS)


def first_telling(found: pd.DataFrame) -> dict[str, int]:
    """First step at which RankMe of some layer tells the members apart, by scale.

    Args:
        found: rows of :func:`geometry`.

    Returns:
        The first early step with a ``family_p`` below
        :data:`geomfast.analysis.population.ALPHA`; scales without one are left out.
    """
    telling = found[(found["measure"] == GEOMETRY) & (found["family_p"] < ALPHA)]
    return {str(scale): int(step) for scale, step in telling.groupby("scale")["step"].min().items()}


def auc_interval(auc: float, succeed: int, fail: int) -> tuple[float, float]:
    """95% interval of an AUC (Newcombe 2006, Statistics in Medicine 25, 559-573, method 5).

    Its ends are the areas whose own standard error, by Hanley and McNeil's formula with both
    group sizes replaced by their mean, just reaches the estimate, as in Wilson's interval.

    Args:
        auc: the estimate.
        succeed, fail: sizes of the two groups.
    """
    mean, z = (succeed + fail) / 2 - 1, float(stats.norm.ppf(0.975))

    def beyond(area: float) -> float:
        spread = 1 + mean * (1 - area) / (2 - area) + mean * area / (1 + area)
        return abs(auc - area) - z * math.sqrt(area * (1 - area) * spread / (succeed * fail))

    def end(edge: float) -> float:
        inside, outside = auc, edge
        if beyond(edge) <= 0:
            return edge
        for _ in range(50):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if beyond(middle) <= 0 else (inside, middle)
        return outside

    return end(0.0), end(1.0)


def _arrived(scores: pd.DataFrame, won: pd.Series, success: float) -> pd.Series:
    """By step, the share of the finally successful members that have already succeeded."""
    wide = scores.pivot(index="seed", columns="step", values="value")
    wide = wide.reindex(won.index[won])
    return (wide >= success).cummax(axis=1).mean()


def _aligned(rows: pd.DataFrame, seeds: pd.Index) -> pd.DataFrame:
    """Values by member, and by layer and step, of the checkpoints that all members have."""
    rows = rows[rows["seed"].isin(seeds)]
    wide = rows.pivot(index="seed", columns=["measure", "layer", "step"], values="value")
    return wide.reindex(seeds).dropna(axis=1)


def _judged(
    scale: str,
    wide: pd.DataFrame,
    won: pd.Series,
    arrived: pd.Series,
    permutations: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """AUC of every column, with p-values."""
    ranks = stats.rankdata(wide.to_numpy(), axis=0)
    flags = won.to_numpy(dtype=float)
    dealt = generator.permuted(np.tile(flags, (permutations, 1)), axis=1)
    auc, null = _auc(flags[None], ranks)[0], _auc(dealt, ranks)
    table = wide.columns.to_frame(index=False)
    table["arrived"] = np.interp(table["step"], arrived.index, arrived, left=0.0)
    table["early"] = table["arrived"] == 0.0
    # A hair of slack, so that rounding cannot part what is equal.
    far, by_chance = np.abs(auc - 0.5) - 1e-12, np.abs(null - 0.5)
    early = table["early"].to_numpy()
    furthest = by_chance[:, early].max(axis=1, initial=0.0)[:, None]
    succeed, fail = int(flags.sum()), int((1 - flags).sum())
    ends = [auc_interval(float(area), succeed, fail) for area in auc]
    table = table.assign(
        scale=scale,
        succeed=succeed,
        fail=fail,
        auc=auc,
        low=[low for low, _ in ends],
        high=[high for _, high in ends],
        p=(1 + (by_chance >= far).sum(axis=0)) / (1 + permutations),
        family_p=np.where(
            early, (1 + (furthest >= far).sum(axis=0)) / (1 + permutations), math.nan
        ),
    )
    depth = table["layer"].map(layer_depth)
    return table.assign(_depth=depth).sort_values(["_depth", "step"], kind="stable")


def _auc(flags: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """(P, K) areas of P ways to mark members as successes, from (N, K) ranks: Mann and Whitney."""
    n = flags.sum(axis=1, keepdims=True)
    return (flags @ ranks - n * (n + 1) / 2) / (n * (ranks.shape[0] - n))
