"""Does the collapse go top-down through the layers?

The deepest block should reach half of its collapse first (arXiv:2602.15997).  A layer's time is
its half-collapse step (:func:`geomfast.analysis.collapse.half_collapse`); the final normed state
is left out, since it is the last block seen through the norm.  Checkpoints are discrete, so ties
are common: two layers that cross between the same two checkpoints are tied and count for nothing.
"""

from __future__ import annotations

import itertools
import math
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from geomfast.analysis.collapse import MIN_DEPTH, half_collapse
from geomfast.analysis.intervals import wilson
from geomfast.analysis.remember import once
from geomfast.analysis.trajectories import TRAJECTORY, in_order
from geomfast.records import FINAL, layer_depth

#: All orders of the layers are tried up to this many; beyond it they are drawn.
EXACT_ORDERS = 5040
DRAWN_ORDERS = 2000
#: All combinations of the runs' orders are tried up to this many; beyond it they are drawn.
EXACT_COMBINATIONS = 50_000
DRAWN_COMBINATIONS = 10_000

TOP_DOWN, TIED, OTHER = "top-down", "tied", "not top-down"
NO_COLLAPSE, TOO_FEW = "no collapse", "too few blocks"
VERDICTS = (TOP_DOWN, TIED, OTHER, NO_COLLAPSE, TOO_FEW)

COLUMNS = ["blocks", "collapsed_blocks", "verdict", "top_down", "strict", "weak"]
COLUMNS += ["tau_b", "spearman", "p_value", "half_steps"]


@once
def top_down(
    records: pd.DataFrame,
    *,
    measure: str = "rankme",
    min_depth: float = MIN_DEPTH,
    until: int | None = None,
    interpolate: bool = False,
    by_task: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Order of the blocks' half-collapse steps, per run and task-level or per run and task.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        measure, min_depth, until, interpolate: as in :func:`half_collapse`.
        by_task: one row per task (``level`` is 0): a block's step is the median over the levels
            at which every block collapsed.
        seed: of the drawn orders, used only where there are too many to try them all.

    Returns:
        One row per run, scale, seed, task (and level): ``blocks``; ``collapsed_blocks``;
        ``verdict``: *top-down* (no deeper block later than a shallower one, and the deepest
        strictly before the first), *tied* (all at the same step), *not top-down*, *no collapse*
        (some block's depth is below ``min_depth``: the order is not defined, the row still
        counts) or *too few blocks* (fewer than 2); ``top_down``; ``strict`` and ``weak`` order;
        ``tau_b`` (Kendall) and ``spearman`` between depth and step, negative when top-down, NaN
        when all are tied; ``p_value`` (one-sided: the share of orders of these layers that are at
        least as top-down in Kendall's score); ``half_steps`` (tuple, first block to last, NaN
        where a block did not collapse).
    """
    halves = half_collapse(
        records, measure=measure, min_depth=min_depth, until=until, interpolate=interpolate
    )
    rows = []
    for cell, table in _half_step_tables(halves, by_task):
        complete = table[~np.isnan(table).any(axis=1)]
        halves_of = np.median(complete, axis=0) if len(complete) else table[0]
        rows.append(cell | _order(halves_of, seed))
    return in_order(pd.DataFrame(rows, columns=[*TRAJECTORY, *COLUMNS]))


def top_down_summary(table: pd.DataFrame, *, min_blocks: int = 2, seed: int = 0) -> dict[str, Any]:
    """Counts over the rows of :func:`top_down`, with an interval and a permutation p-value.

    The task-levels of one run share one network, so they are not independent; the p-value
    therefore reorders the layers of a whole run at once, the same way for all of its rows.  One
    run of L blocks cannot get below 1 / L!, however many task-levels agree.

    Args:
        table: the rows of :func:`top_down`.
        min_blocks: leave out runs with fewer blocks (the paper counts models with at least 4).
        seed: of the drawn orders, used only where there are too many to try them all.

    Returns:
        ``count`` top-down rows ``of`` rows (rows without a collapse count in ``of``), ``low`` and
        ``high`` (95% Wilson interval of the share, which treats rows as independent), ``verdicts``
        (how many rows of each kind), ``strict``, ``mean_score`` (Kendall's score over its largest
        value, mean over the rows that collapsed: -1 strictly top-down, 0 no order or all tied),
        ``p_value`` and ``exact`` (all orders were tried).
    """
    rows = table[table["blocks"] >= max(min_blocks, 2)]
    count, of = int(rows["top_down"].sum()), len(rows)
    low, high = wilson(count, of)
    verdicts = {name: int((rows["verdict"] == name).sum()) for name in VERDICTS}
    verdicts[TOO_FEW] = len(table) - of
    collapsed = rows[~rows["verdict"].isin([NO_COLLAPSE, TOO_FEW])]
    scores, p_value, exact = _shared_permutation(collapsed, seed)
    return {
        "count": count,
        "of": of,
        "low": low,
        "high": high,
        "verdicts": verdicts,
        "strict": int(rows["strict"].sum()),
        "mean_score": float(np.mean(scores)) if scores else math.nan,
        "p_value": p_value,
        "exact": exact,
    }


def _half_step_tables(halves: pd.DataFrame, by_task: bool):
    """Per run and task (and level): the cell, and half-steps as (levels, blocks)."""
    blocks = halves[halves["layer"] != FINAL]
    names = [name for name in TRAJECTORY if not (by_task and name == "level")]
    # Arrays: a table of a thousand cells would spend its time in pandas' own.
    groups = blocks.groupby(names, sort=False).ngroup().to_numpy()
    order = np.argsort(groups, kind="stable")
    keys = {name: blocks[name].to_numpy(dtype=object) for name in {*names, "level", "layer"}}
    halves_of = blocks["half_step"].to_numpy(dtype=float)
    for at in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []:
        cell = {name: keys[name][at[0]] for name in names} | ({"level": 0} if by_task else {})
        levels = {level: row for row, level in enumerate(sorted(set(keys["level"][at])))}
        labels = sorted(set(keys["layer"][at]), key=layer_depth)
        place = {label: column for column, label in enumerate(labels)}
        wide = np.full((len(levels), len(labels)), math.nan)
        rows = [levels[level] for level in keys["level"][at]]
        wide[rows, [place[label] for label in keys["layer"][at]]] = halves_of[at]
        yield cell, wide


def _order(halves: np.ndarray, seed: int) -> dict[str, Any]:
    """Verdict on the half-collapse steps of one row, first block to last."""
    known = int((~np.isnan(halves)).sum())
    result: dict[str, Any] = {
        "blocks": len(halves),
        "collapsed_blocks": known,
        "verdict": NO_COLLAPSE if len(halves) > 1 else TOO_FEW,
        **dict.fromkeys(("top_down", "strict", "weak"), False),
        **dict.fromkeys(("tau_b", "spearman", "p_value"), math.nan),
        "half_steps": tuple(float(h) for h in halves),
    }
    if len(halves) < 2 or known < len(halves):
        return result
    change = np.diff(halves)
    weak, tied = bool((change <= 0).all()), bool((change == 0).all())
    is_top_down = weak and not tied
    signs = _signs(halves)
    null, exact = _null_scores(signs, seed)
    result |= {
        "verdict": TOP_DOWN if is_top_down else TIED if tied else OTHER,
        "top_down": is_top_down,
        "strict": bool((change < 0).all()),
        "weak": weak,
        "p_value": _share_at_most(null, _score(signs), exact),
    }
    if not tied:
        tau_b, spearman = _correlations(result["half_steps"])
        result |= {"tau_b": tau_b, "spearman": spearman}
    return result


@lru_cache(maxsize=4096)
def _correlations(halves: tuple[float, ...]) -> tuple[float, float]:
    """Kendall's tau-b and Spearman's correlation of half-steps with depth; many cells have both."""
    depth = np.arange(len(halves))
    kendall: Any = stats.kendalltau(depth, halves)
    spearman: Any = stats.spearmanr(depth, halves)
    return float(kendall.statistic), float(spearman.statistic)


def _signs(halves: np.ndarray) -> np.ndarray:
    """(L, L): sign of half-step b minus half-step a, at [a, b]."""
    return np.sign(halves[None, :] - halves[:, None])


def _score(signs: np.ndarray) -> float:
    """Kendall's score: pairs in order minus pairs out of order; most negative when top-down."""
    return float(np.triu(signs, 1).sum())


@cache
def _orders(blocks: int, seed: int) -> tuple[np.ndarray, bool]:
    """Orders of the layers as (orders, L), and whether they are all there are."""
    if math.factorial(blocks) <= EXACT_ORDERS:
        return np.array(list(itertools.permutations(range(blocks)))), True
    generator = np.random.default_rng([seed, blocks])
    return generator.permuted(np.tile(np.arange(blocks), (DRAWN_ORDERS, 1)), axis=1), False


def _null_scores(signs: np.ndarray, seed: int) -> tuple[np.ndarray, bool]:
    """Kendall's score under every (or a drawn) order of the layers, and whether it is every."""
    return _cached_null(signs.shape[0], signs.tobytes(), seed)


@lru_cache(maxsize=4096)
def _cached_null(blocks: int, signs: bytes, seed: int) -> tuple[np.ndarray, bool]:
    """Many task-levels show the same order, and a run of 12 blocks takes a while for each."""
    matrix = np.frombuffer(signs).reshape(blocks, blocks)
    orders, exact = _orders(blocks, seed)
    first, second = np.triu_indices(blocks, 1)
    return matrix[orders[:, first], orders[:, second]].sum(axis=1), exact


def _share_at_most(null: np.ndarray, observed: float, exact: bool) -> float:
    """One-sided p-value; where orders were drawn, the observed one counts as one more draw."""
    hits = int((null <= observed + 1e-9).sum())
    return hits / len(null) if exact else (hits + 1) / (len(null) + 1)


def _shared_permutation(rows: pd.DataFrame, seed: int) -> tuple[list[float], float, bool]:
    """Kendall's score of every row (over its largest value), and the p-value of their sum."""
    scores: list[float] = []
    nulls: list[np.ndarray] = []
    exact = True
    # By number of blocks too: a task-level that lacks a block has no order in common with the rest.
    for _, group in rows.groupby(["run", "blocks"], sort=False):
        matrices = [_signs(np.array(halves)) for halves in group["half_steps"]]
        blocks = len(matrices[0])
        pairs = blocks * (blocks - 1) / 2
        scores += [_score(m) / pairs for m in matrices]
        null, complete = _null_scores(np.sum(matrices, axis=0) / pairs, seed)
        nulls.append(null)
        exact = exact and complete
    if not nulls:
        return scores, math.nan, True
    if exact and math.prod(len(null) for null in nulls) <= EXACT_COMBINATIONS:
        sums = np.zeros(1)
        for null in nulls:
            sums = np.add.outer(sums, null).ravel()
    else:
        exact = False
        generator = np.random.default_rng(seed)
        sums = np.zeros(DRAWN_COMBINATIONS)
        for null in nulls:
            sums = sums + generator.choice(null, DRAWN_COMBINATIONS)
    return scores, _share_at_most(sums, sum(scores), exact), exact
