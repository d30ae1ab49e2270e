"""Records of a whole sweep with all measures, as large as the paper's or as small as a test needs.

What is planted: RankMe turns well before behaviour, gradient ranks with it, the Hessian after it;
the probe has the answer before the model gives it; level 3 of MUL never emerges.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from geomfast.records import FINAL, block
from geomfast.testbed.tasks import TASK_NAMES
from geomfast.testbed.tasks.names import task_level
from tests.analysis.synthetic import CHANCE, join, rows, schedule, sweep

BLOCKS = {"nano": 2, "micro": 4, "small": 6, "medium": 8, "large": 12}
#: Each dear measure: how many times as late as behaviour it changes, before and after, its noise.
DEAR = {
    "fisher_rank": (1.0, 12.0, 45.0, 0.03),
    "gradient_covariance_rank": (0.95, 10.0, 40.0, 0.03),
    "hessian_top": (2.2, 4.0, 60.0, 0.05),
    "hessian_trace": (2.0, 20.0, 300.0, 0.05),
    "llc": (1.05, 3.0, 40.0, 0.03),
}
SECONDS = {"rankme": 0.02, "accuracy": 0.01, "probe_accuracy": 0.004, "llc": 4.0}


def whole_sweep(
    scales: Sequence[str] = ("nano", "micro"),
    seeds: Sequence[int] = (0, 1),
    tasks: Sequence[str] = TASK_NAMES,
    levels: Sequence[int] = (1, 2, 3),
    *,
    steps: Sequence[int] | None = None,
    dear: int = 24,
) -> pd.DataFrame:
    """All runs of a grid with every measure.

    Args:
        scales, seeds, tasks, levels: the grid.
        steps: checkpoints; those of :func:`schedule` when None.
        dear: how many of them have the dear measures.
    """
    at = schedule() if steps is None else list(steps)
    frames = []
    for scale in scales:
        for seed in seeds:
            grid: dict[str, Any] = {"scale": scale, "seed": seed, "tasks": tasks, "levels": levels}
            run = sweep(blocks=BLOCKS[scale], steps=at, **grid)
            ahead = 0.3 * list(BLOCKS).index(scale)
            frames.append(_moved(join(run, *_more(run, at, dear)), ahead, seed))
    frame = join(*frames)
    return frame.assign(seconds=frame["measure"].map(SECONDS).fillna(0.05))


def _moved(run: pd.DataFrame, ahead: float, seed: int) -> pd.DataFrame:
    """The run with every task-level earlier by so much, in the logarithm of the step, and chance.

    All measures of a task-level move together, so that their order stays.
    """
    generator = np.random.default_rng([seed, round(100 * ahead)])
    shift: dict[Any, float] = {}
    pieces = []
    for key, part in run.groupby(["task", "level", "layer", "measure"], sort=False):
        by = shift.setdefault(key[:2], ahead + 0.25 * generator.standard_normal())
        at = np.log1p(part["step"].to_numpy(dtype=float))
        # Step 0 stays what it is: an untrained network.
        moved = np.interp(np.where(at > 0, np.maximum(at + by, 0.0), 0.0), at, part["value"])
        pieces.append(part.assign(value=moved))
    return join(*pieces)


def _more(run: pd.DataFrame, steps: list[int], dear: int) -> list[pd.DataFrame]:
    """Dear measures and probes of one run."""
    layers = [block(index + 1) for index in range(BLOCKS[run["scale"].iloc[0]])] + [FINAL]
    chosen = sorted({steps[round(i)] for i in np.linspace(0, len(steps) - 1, dear)})
    frames = []
    accuracy = run[run["measure"] == "accuracy"]
    for (task, level), part in accuracy.groupby(["task", "level"], sort=False):
        cell = {"task": task, "level": level, "scale": run["scale"].iloc[0]}
        cell["seed"] = run["seed"].iloc[0]
        noise = np.random.default_rng(zlib.crc32(repr(cell).encode()))
        base = CHANCE.get(task_level(str(task), int(str(level))), 0.0)
        above = (part["value"].to_numpy() - base) / (1 - base)
        late = np.log1p(part["step"].to_numpy(dtype=float))
        for measure, (times, low, high, spread) in DEAR.items():
            # The curve of behaviour, moved along the logarithm of the step.
            moved = np.interp(np.log1p(chosen) - np.log(times), late, above)
            values = low * (high / low) ** moved
            values *= np.exp(spread * noise.standard_normal(len(chosen)))
            frames.append(rows(measure, chosen, values, **cell).assign(stderr=0.02 * values))
        for depth, layer in enumerate(layers):
            moved = np.interp(late + 0.2 + 0.9 * depth / len(layers), late, above)
            values = np.maximum(base, 0.1) + (0.97 - max(base, 0.1)) * moved
            frames.append(
                rows("probe_accuracy", part["step"].tolist(), values, layer=layer, **cell)
            )
        # The model has its first token halfway between the probe and the whole answer.
        moved = np.interp(late + 0.4, late, above)
        values = np.maximum(base, 0.1) + (0.99 - max(base, 0.1)) * moved
        frames.append(rows("probe_accuracy_model", part["step"].tolist(), values, **cell))
    return frames
