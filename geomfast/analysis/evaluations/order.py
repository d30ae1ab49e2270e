"""Order in which tasks rise, and whether it is another at another scale."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

#: A task that has not risen by the last checkpoint rises later than any that has.
PAIR_COLUMNS = ["run", "other", "first", "second", "here", "there", "verdict", "risen"]
SAME, SWAPPED, UNDECIDED = "same", "swapped", "undecided"
BETWEEN_COLUMNS = ["run", "other", "tasks", "pairs", "same", "swapped", "undecided"]
BETWEEN_COLUMNS += ["same_risen", "swapped_risen", "tau", "p_value"]


class _Compared(NamedTuple):
    """All pairs of tasks of two runs, as arrays: indices, signs here and there, verdicts."""

    run: str
    other: str
    tasks: np.ndarray
    first: np.ndarray
    second: np.ndarray
    here: np.ndarray
    there: np.ndarray
    verdict: np.ndarray
    risen: np.ndarray


def pairs_between(
    table: pd.DataFrame, *, verdicts: Sequence[str] = (SAME, SWAPPED, UNDECIDED)
) -> pd.DataFrame:
    """Every pair of tasks in its order at two scales.

    A rise is known to lie after one checkpoint and by the next, so that two tasks are in order
    only if these intervals do not overlap.  One that never rises is later than every one that does;
    two that never rise are in no order, and neither is one that is above chance at the end for too
    few checkpoints, or that may have risen before the first.

    Args:
        table: rows of :func:`geomfast.analysis.evaluations.rises`.
        verdicts: those wanted; of thousands of tasks there are millions of pairs.

    Returns:
        One row per pair of runs (``run`` before ``other`` in the order of the table) and pair of
        tasks that both have: ``here`` and ``there`` (1 if ``first`` rises first, -1 if ``second``
        does, 0 if undecided), ``verdict`` and ``risen`` (both tasks rise in both runs).
    """
    frames = []
    for both in _compared(table):
        kept = np.isin(both.verdict, verdicts)
        columns = {name: getattr(both, name)[kept] for name in PAIR_COLUMNS[2:]}
        columns |= {name: both.tasks[columns[name]] for name in ("first", "second")}
        frames.append(pd.DataFrame({"run": both.run, "other": both.other} | columns))
    found = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return found.reindex(columns=PAIR_COLUMNS)


def order_between(table: pd.DataFrame) -> pd.DataFrame:
    """Agreement of the order of rises between scales.

    Args:
        table: rows of :func:`geomfast.analysis.evaluations.rises`.

    Returns:
        One row per pair of runs: ``tasks`` (that rise in both), ``pairs`` (of all tasks that both
        have), of these ``same``, ``swapped`` and ``undecided``; ``same_risen`` and
        ``swapped_risen`` (of the pairs of tasks that rise in both); ``tau`` and ``p_value``
        (Kendall's tau-b of the steps over tasks that rise in both; NaN below three).
    """
    steps = table.pivot_table(index="task", columns="run", values="step", aggfunc="first")
    found = []
    for pairs in _compared(table):
        run, other = pairs.run, pairs.other
        both = steps[[run, other]].dropna() if {run, other} <= set(steps) else steps.iloc[:0]
        tau, p_value = math.nan, math.nan
        if len(both) >= 3:
            tau, p_value = map(float, stats.kendalltau(both[run], both[other]))
        counts = {name: int((pairs.verdict == name).sum()) for name in (SAME, SWAPPED, UNDECIDED)}
        risen = pairs.verdict[pairs.risen]
        counts |= {f"{name}_risen": int((risen == name).sum()) for name in (SAME, SWAPPED)}
        found.append(
            {"run": run, "other": other, "tasks": len(both), "pairs": len(pairs.verdict), **counts}
            | {"tau": tau, "p_value": p_value}
        )
    return pd.DataFrame(found, columns=BETWEEN_COLUMNS)


def _compared(table: pd.DataFrame) -> Iterator[_Compared]:
    runs = {str(run): rows.set_index("task") for run, rows in table.groupby("run", sort=False)}
    for (run, here), (other, there) in itertools.combinations(runs.items(), 2):
        tasks = [task for task in here.index if task in there.index]
        if len(tasks) < 2:
            continue
        a, b = np.triu_indices(len(tasks), 1)
        one, two = (_signs(rows.loc[tasks])[a, b] for rows in (here, there))
        rise = (here.loc[tasks, "step"].notna() & there.loc[tasks, "step"].notna()).to_numpy()
        verdict = np.where(one * two == 0, UNDECIDED, np.where(one == two, SAME, SWAPPED))
        names = np.array(tasks, dtype=object)
        yield _Compared(run, other, names, a, b, one, two, verdict, rise[a] & rise[b])


def _signs(rows: pd.DataFrame) -> np.ndarray:
    """(tasks, tasks): 1 where the row's task rises before the column's, -1 after, 0 undecided."""
    step = rows["step"].fillna(math.inf).to_numpy()
    after = rows["after"].fillna(-math.inf).to_numpy()
    # What has not risen rises after any step that another rose at, and one pending has no place.
    after = np.where(np.isinf(step), math.inf, after)
    before = step[:, None] <= after[None, :]
    before &= ~np.isinf(step)[:, None]
    unknown = (rows["pending"] | rows["early"] | rows["chance"].isna()).to_numpy(dtype=bool)
    before &= ~unknown[:, None] & ~unknown[None, :]
    return before.astype(int) - before.T.astype(int)
