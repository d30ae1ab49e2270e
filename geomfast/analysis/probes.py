"""Do the hidden states hold the answer before the model gives it?

A linear probe of each layer reads the first answer token on inputs it never saw.  It is held to
the criterion of emergence (:mod:`geomfast.analysis.events`), but above what can be read off the
first checkpoint: an untrained network passes some of its input on, and a probe finds it there.
Set beside it is the model itself: on the same token, which is like for like, or on the whole
answer, which a long answer makes later than its first token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geomfast.analysis.events import PERSISTENCE, THRESHOLDS, emergence
from geomfast.analysis.remember import once
from geomfast.analysis.trajectories import TRAJECTORY, chance_of, first_held, in_order, trajectories
from geomfast.records import layer_depth

MEASURE = "probe_accuracy"
#: Accuracy of always giving the most common first token, recorded beside the probes.
MAJORITY = f"{MEASURE}_majority"
#: What a probe is set against: the model's own first token, or its whole answer.
FIRST_TOKEN, WHOLE_ANSWER = f"{MEASURE}_model", "accuracy"
#: A probe this good at the first checkpoint has nothing left to learn.
FROM_THE_START = 0.9

PROBE, TIE, BEHAVIOUR = "probe first", "tie", "behaviour first"
#: Outcomes of task-levels that emerged and whose probe could still learn.
EVENTS = (PROBE, TIE, BEHAVIOUR)
START, NEVER, PENDING = "from the start", "never emerged", "pending"
NO_BEHAVIOUR = "no behaviour"
OUTCOMES = (*EVENTS, START, NEVER, PENDING, NO_BEHAVIOUR)

LAYER_COLUMNS = [*TRAJECTORY, "layer", "step", "after", "baseline", "initial", "final"]
LAYER_COLUMNS += ["checkpoints"]
COLUMNS = [*TRAJECTORY, "emerged", "emerged_after", "layer", "probed", "probed_after", "baseline"]
COLUMNS += ["outcome"]


def probe_emergence(
    records: pd.DataFrame,
    *,
    chance: Mapping[str, float] | None = None,
    threshold: float = THRESHOLDS["accuracy"],
    persistence: int = PERSISTENCE,
) -> pd.DataFrame:
    """When the answer can be read off each layer by a linear probe.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        chance: chance of the probe by task-level name, where :data:`MAJORITY` is not recorded.
        threshold, persistence: as in :func:`geomfast.analysis.emergence`, above ``baseline``.

    Returns:
        One row per run, scale, seed, task, level and layer: ``step`` (NaN if never), ``after``
        (the checkpoint before it), ``baseline`` (the largest of chance and of the layers'
        accuracies at the first checkpoint: one for all layers of a task-level), ``initial``,
        ``final`` and ``checkpoints``.
    """
    majority = {_key(cell): float(values[0]) for cell, _, values in trajectories(records, MAJORITY)}
    found = []
    best: dict[tuple[Any, ...], float] = {}
    for cell, steps, values in trajectories(records, MEASURE):
        found.append((cell, steps, values))
        low = majority.get(_key(cell), chance_of(chance, cell["task"], cell["level"]))
        best[_key(cell)] = max(best.get(_key(cell), low), float(values[0]))
    rows = []
    for cell, steps, values in found:
        base = best[_key(cell)]
        step, after = _held(steps, values, base, threshold, persistence)
        row = [*_key(cell), cell["layer"], step, after, base]
        rows.append([*row, float(values[0]), float(values[-1]), len(steps)])
    table = pd.DataFrame(rows, columns=LAYER_COLUMNS)
    depth = table["layer"].map(layer_depth).astype(float)
    return in_order(table.iloc[np.argsort(depth, kind="stable")])


def _key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in TRAJECTORY)


def _held(
    steps: np.ndarray, values: np.ndarray, base: float, threshold: float, persistence: int
) -> tuple[float, float]:
    """Step from which the threshold above ``base`` is held, and the one before; NaN if never."""
    index = first_held(values >= base + threshold * (1.0 - base) - 1e-12, persistence)
    step = math.nan if index is None else float(steps[index])
    return step, float(steps[index - 1]) if index else math.nan


@once
def probe_leads(
    records: pd.DataFrame,
    *,
    chance: Mapping[str, float] | None = None,
    behaviour: str = WHOLE_ANSWER,
    layer: str | None = None,
    threshold: float = THRESHOLDS["accuracy"],
    persistence: int = PERSISTENCE,
) -> pd.DataFrame:
    """Which comes first on each task-level, the probe or the model.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        chance: exact-match chance by task-level name.
        behaviour: :data:`WHOLE_ANSWER`, held to :func:`geomfast.analysis.emergence`, or
            :data:`FIRST_TOKEN`, held to the very accuracy that the probe must reach.
        layer: this layer's probe; when None that of the layer that is first, the shallowest of
            several.
        threshold, persistence: as in :func:`geomfast.analysis.emergence`.

    Returns:
        One row per run, scale, seed, task and level: ``emerged`` and ``emerged_after`` (of
        behaviour), ``layer``, ``probed`` and ``probed_after`` (of the probe, NaN if never),
        ``baseline`` and ``outcome``, one of :data:`OUTCOMES`: intervals between checkpoints that
        overlap are a tie, and a probe that never gets there while behaviour does comes second.

    Raises:
        ValueError: another ``behaviour``.
    """
    if behaviour not in (FIRST_TOKEN, WHOLE_ANSWER):
        raise ValueError(
            f"behaviour must be {WHOLE_ANSWER!r} or {FIRST_TOKEN!r}, got {behaviour!r}"
        )
    probed = probe_emergence(records, chance=chance, threshold=threshold, persistence=persistence)
    if layer is not None:
        probed = probed[probed["layer"] == layer]
    # Stable: of several layers at one step the shallowest stays in front.
    first = probed.sort_values("step", kind="stable").drop_duplicates(TRAJECTORY)
    first = first.rename(columns={"step": "probed", "after": "probed_after"})
    if behaviour == WHOLE_ANSWER:
        emerged = emergence(records, chance=chance, threshold=threshold, persistence=persistence)
    else:
        bases = {tuple(row): base for *row, base in first[[*TRAJECTORY, "baseline"]].to_numpy()}
        emerged = _first_tokens(records, bases, threshold, persistence)
    emerged = emerged.rename(columns={"step": "emerged", "after": "emerged_after"})
    keep = [*TRAJECTORY, "emerged", "emerged_after", "pending"]
    table = first.drop(columns=["initial", "final", "checkpoints"])
    table = table.merge(emerged[keep], on=TRAJECTORY, how="left")
    table["outcome"] = [_outcome(row) for row in table.to_dict("records")]
    return in_order(table[COLUMNS])


def _first_tokens(
    records: pd.DataFrame,
    bases: Mapping[tuple[Any, ...], float],
    threshold: float,
    persistence: int,
) -> pd.DataFrame:
    """When the model's own first token reaches what the probe must, in the form of emergence."""
    rows = []
    for cell, steps, values in trajectories(records, FIRST_TOKEN):
        base = bases.get(_key(cell), math.nan)
        step, after = _held(steps, values, base, threshold, persistence)
        above = bool(values[-1] >= base + threshold * (1.0 - base) - 1e-12)
        rows.append([*_key(cell), step, after, math.isnan(step) and above])
    return pd.DataFrame(rows, columns=[*TRAJECTORY, "step", "after", "pending"])


def _outcome(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["pending"]):
        return NO_BEHAVIOUR
    if row["baseline"] >= FROM_THE_START:
        return START
    if math.isnan(row["emerged"]):
        return PENDING if row["pending"] else NEVER
    # Comparisons with NaN are false: behaviour at the first checkpoint is never preceded.
    if row["probed"] <= row["emerged_after"]:
        return PROBE
    return TIE if row["probed_after"] < row["emerged"] else BEHAVIOUR
