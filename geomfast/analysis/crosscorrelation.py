"""Lead and lag of measures against behaviour by cross-correlation of their changes.

A measure and the accuracy of the same task-level are put on one grid that is even in the
logarithm of the step, and the differences between neighbours are correlated at every lag.  Over
the task-levels of a run these correlations are averaged; their largest size says by how much the
one is earlier.  All curves of a run move in the same few doublings, so some correlation is there
for any two of them: the p-value therefore compares a measure with the accuracy of its own
task-level and of others in the same run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from geomfast.analysis.changes import LEAST_CHECKPOINTS, LOGARITHMIC
from geomfast.analysis.events import emergence
from geomfast.analysis.intervals import Estimate, mean_over_seeds
from geomfast.analysis.leads import MEASURES
from geomfast.analysis.remember import once
from geomfast.analysis.trajectories import TRAJECTORY, in_order, log_steps, select, stretches
from geomfast.records import FINAL

#: Finest grid, in doublings of the step; a series that is measured less often makes it coarser.
FINEST = 0.25
#: Largest lag, in doublings.
FARTHEST = 3.0
#: Fewest task-levels of a run: with three there are six ways to pair them.
LEAST_TASK_LEVELS = 4
#: Pairings that are drawn, where not all can be tried, and bootstrap samples of task-levels.
DRAWN = 999
EXACT_PAIRINGS = 5040

COLUMNS = ["measure", "lead", "low", "high", "how", "correlation", "p_value", "spacing"]
COLUMNS += ["task_levels", "runs", "leads", "curve"]


class _Run(NamedTuple):
    """Correlations of one run: (m, m, lags), of measure a and the accuracy of task-level b."""

    scale: str
    pairs: np.ndarray

    @property
    def own(self) -> np.ndarray:
        """(m, lags): of every task-level with itself."""
        return self.pairs[np.arange(len(self.pairs)), np.arange(len(self.pairs))]


@once
def cross_correlation(
    records: pd.DataFrame,
    *,
    chance: Mapping[str, float] | None = None,
    measures: Sequence[str] = MEASURES,
    events: pd.DataFrame | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Lead of every measure over accuracy, by cross-correlation of changes.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        chance: exact-match chance by task-level name; says which task-levels emerged, the others
            are left out.
        measures: any without layers, or ``rankme`` (of the final state).
        events: emergence by another rule, as :func:`geomfast.analysis.leads.leads` takes it.
        seed: of drawn pairings and bootstrap samples.

    Returns:
        One row per ``measure`` that has a run with at least :data:`LEAST_TASK_LEVELS` of them:
        ``lead`` (mean over runs of the lag of the largest correlation in size; doublings of the
        step, positive when the measure is first, a multiple of ``spacing`` in a single run);
        ``low``, ``high`` and ``how`` (over seeds; over task-levels where there is one run);
        ``correlation`` (largest in size of the mean over all); ``p_value`` (share of pairings of
        measures with accuracies of the same run whose mean correlation is as large; 1 where all
        task-levels emerge alike, since then nothing can be told); ``spacing`` of the grid;
        ``task_levels`` and ``runs``; ``leads`` (tuple, by run) and ``curve`` (tuple of lag and
        correlation).
    """
    emerged = emergence(records, chance=chance) if events is None else events
    emerged = emerged.loc[emerged["step"].notna(), TRAJECTORY]
    accuracy = select(records, "accuracy").merge(emerged, on=TRAJECTORY)
    found = []
    for measure in measures:
        rows = select(records, measure, FINAL if measure == "rankme" else "")
        rows = rows[rows["level"] > 0].merge(emerged, on=TRAJECTORY)
        if measure in LOGARITHMIC:
            rows = rows[rows["value"] > 0]
            rows = rows.assign(value=np.log(rows["value"]))
        spacing, runs = _correlations(_series(rows), _series(accuracy))
        if runs:
            found.append({"measure": measure} | _summary(runs, spacing, seed))
    return pd.DataFrame(found, columns=COLUMNS)


_Series = dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]]


def _series(rows: pd.DataFrame) -> _Series:
    """Axis and values of every cell, in the usual order of cells."""
    rows = in_order(rows)
    axis, values = log_steps(rows["step"]), rows["value"].to_numpy(dtype=float)
    return {
        key: (axis[at], values[at])
        for key, at in stretches(rows, TRAJECTORY)
        if at.stop - at.start >= LEAST_CHECKPOINTS
    }


def _correlations(measured: _Series, behaved: _Series) -> tuple[float, list[_Run]]:
    """Spacing of the grid, the same for all runs, and the correlations of each."""
    cells = [key for key in measured if key in behaved]
    if not cells:
        return math.nan, []
    # As wide as all but the widest tenth of the distances: no finer than was measured.
    gaps = [np.quantile(np.diff(s[key][0]), 0.9) for key in cells for s in (measured, behaved)]
    spacing = max(FINEST, float(np.max(gaps)))
    runs = []
    for (_, scale), group in itertools.groupby(cells, key=lambda key: key[:2]):
        keys = list(group)
        if len(keys) < LEAST_TASK_LEVELS:
            continue
        axes = [series[key][0] for key in keys for series in (measured, behaved)]
        grid = np.arange(max(a[0] for a in axes), min(a[-1] for a in axes) + 1e-9, spacing)
        lags = round(FARTHEST / spacing)
        if lags == 0 or len(grid) <= 2 * lags:
            continue
        left, right = (
            np.stack([_changes(grid, *series[key]) for key in keys])
            for series in (measured, behaved)
        )
        n = left.shape[1]
        pairs = [
            left[:, max(0, -k) : n - max(0, k)] @ right[:, max(0, k) : n - max(0, -k)].T / n
            for k in range(-lags, lags + 1)
        ]
        runs.append(_Run(scale, np.stack(pairs, axis=-1)))
    return spacing, runs


def _changes(grid: np.ndarray, axis: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Differences between neighbours on the grid, standardised; zeros where nothing changes."""
    changes = np.diff(np.interp(grid, axis, values))
    spread = changes.std()
    return (changes - changes.mean()) / spread if spread > 0 else np.zeros_like(changes)


def _summary(runs: list[_Run], spacing: float, seed: int) -> dict[str, Any]:
    lags = spacing * (np.arange(runs[0].pairs.shape[2]) - runs[0].pairs.shape[2] // 2)
    generator = np.random.default_rng(seed)
    leads = [_peak(lags, run.own.mean(axis=0)) for run in runs]
    estimate = mean_over_seeds(leads, [run.scale for run in runs])
    if len(runs) == 1:
        estimate = _bootstrap(lags, runs[0].own, leads[0], generator)
    own = np.concatenate([run.own for run in runs])
    mean = own.mean(axis=0)
    top = int(np.abs(mean).argmax())
    p_value = _p_value(runs, float(np.abs(mean[top])), generator)
    found = [*astuple(estimate), float(mean[top]), p_value, spacing, len(own), len(runs)]
    curve = tuple(zip(lags.tolist(), mean.tolist(), strict=True))
    return dict(zip(COLUMNS[1:], (*found, tuple(leads), curve), strict=True))


def _peak(lags: np.ndarray, correlation: np.ndarray) -> float:
    return float(lags[np.abs(correlation).argmax()])


def _bootstrap(
    lags: np.ndarray, own: np.ndarray, lead: float, generator: np.random.Generator
) -> Estimate:
    drawn = generator.integers(len(own), size=(DRAWN, len(own)))
    means = own[drawn].mean(axis=1)
    peaks = lags[np.abs(means).argmax(axis=1)]
    low, high = np.quantile(peaks, [0.025, 0.975])
    return Estimate(lead, float(low), float(high), f"bootstrap of {len(own)} task-levels, one run")


def _p_value(runs: list[_Run], observed: float, generator: np.random.Generator) -> float:
    """Share of pairings within runs whose mean correlation peaks as high; all of them if few."""
    total = sum(len(run.pairs) for run in runs)
    count = math.prod(math.factorial(len(run.pairs)) for run in runs)
    exact = len(runs) == 1 and count <= EXACT_PAIRINGS
    sums = np.zeros(1)
    for run in runs:
        size = len(run.pairs)
        if exact:
            orders = np.array(list(itertools.permutations(range(size))))
        else:
            orders = generator.permuted(np.tile(np.arange(size), (DRAWN, 1)), axis=1)
        sums = sums + run.pairs[np.arange(size), orders].sum(axis=1)
    null = np.abs(sums / total).max(axis=1)
    hits = int((null >= observed - 1e-9).sum())
    return hits / len(null) if exact else (hits + 1) / (len(null) + 1)
