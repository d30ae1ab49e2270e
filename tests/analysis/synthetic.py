"""Records with planted answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geomfast import records
from geomfast.files import write_json
from geomfast.testbed.tasks import TASK_NAMES

CHANCE = {f"PAR-{level}": 0.5 for level in (1, 2, 3)} | {f"CMP-{v}": 1 / 3 for v in (1, 2, 3)}


def rows(
    measure: str,
    steps: Sequence[int],
    values: Sequence[float],
    *,
    task: str = "COPY",
    level: int = 1,
    layer: str = "",
    scale: str = "nano",
    seed: int = 0,
    settings: str = "s0",
) -> pd.DataFrame:
    """Records of one trajectory, given value by value."""
    n = len(steps)
    assert n == len(values)
    columns: dict[str, Any] = {
        "run": f"joint-{scale}-seed{seed}",
        "scale": scale,
        "seed": seed,
        "step": list(steps),
        "tokens": [1000 * s for s in steps],
        "task": task,
        "level": level,
        "layer": layer,
        "measure": measure,
        "value": [float(v) for v in values],
        "stderr": [0.01] * n if measure == "accuracy" else [math.nan] * n,
        "n": 200,
        "settings": settings,
        "weights": [f"w{s}" for s in steps],
        "data": "d0",
        "backend": "reference",
        "device": "cpu",
        "seconds": 0.0,
    }
    return pd.DataFrame(columns)[[name for name, _, _ in records.COLUMNS]]


def join(*frames: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)


def layers(halves: Mapping[str, int], steps: Sequence[int], **cell: Any) -> pd.DataFrame:
    """Layers that fall from 10 to 2 in one go at the given step (and 3 checkpoints on go to 12)."""
    frames = []
    for label, half in halves.items():
        at = list(steps).index(half)
        values = [10.0 if i < at else 2.0 if i < at + 3 else 12.0 for i in range(len(steps))]
        frames.append(rows("rankme", steps, values, layer=label, **cell))
    return join(*frames)


def schedule(last: int = 12_000, count: int = 60) -> list[int]:
    """0, 2, ..., 60 and then log-spaced."""
    late = np.unique(np.geomspace(66, last, count).astype(int))
    return [*range(0, 61, 2), *late.tolist()] if last > 60 else list(range(0, last + 1, 2))


def sweep(
    *,
    scale: str = "nano",
    seed: int = 0,
    blocks: int = 2,
    tasks: Sequence[str] = TASK_NAMES,
    levels: Sequence[int] = (1, 2, 3),
    steps: Sequence[int] | None = None,
    noise: float = 0.01,
) -> pd.DataFrame:
    """A smooth run in the shape of a real one: collapse (deepest first), recovery, emergence.

    MOD-1 falls to a floor of 2.0; level 3 of MUL never emerges.
    """
    at = np.array(schedule() if steps is None else steps, dtype=float)
    generator = np.random.default_rng(seed)
    frames = []
    for index, task in enumerate(tasks):
        for level in levels:
            cell: dict[str, Any] = {"task": task, "level": level, "scale": scale, "seed": seed}
            start, floor = 3.0 + 0.6 * index, (2.0 if task == "MOD" else 2.2 + 0.3 * index)
            emerged = 60.0 * 2.0 ** (0.5 * index + 1.2 * (level - 1)) + 5 * seed
            for depth, label in enumerate(
                [records.block(b + 1) for b in range(blocks)] + ["final"]
            ):
                fall = 16.0 - 6.0 * min(depth, blocks - 1) / max(blocks - 1, 1)
                down = 1.0 / (1.0 + np.exp(-(at - fall) / 2.0))
                up = 1.0 / (1.0 + (emerged / np.maximum(at, 1e-9)) ** 4)
                value = start - (start - floor) * down + (8.0 + 3.0 * index) * up
                value = value * np.exp(noise * generator.standard_normal(len(at)))
                frames.append(rows("rankme", at.astype(int).tolist(), value, layer=label, **cell))
            never = task == "MUL" and level == 3
            base = CHANCE.get(f"{task}-{level}", 0.0)
            learned = 1.0 / (1.0 + (1.6 * emerged / np.maximum(at, 1e-9)) ** 4)
            accuracy = base + (1 - base) * learned * (0.3 if never else 1.0)
            logprob = np.log(np.clip(accuracy, 0.05, 0.999))
            frames.append(rows("accuracy", at.astype(int).tolist(), accuracy, **cell))
            frames.append(rows("answer_logprob", at.astype(int).tolist(), logprob, **cell))
    return join(*frames)


def write(out: Path, frame: pd.DataFrame, **settings: Any) -> Path:
    """Write records and settings as a sweep would, but in one file per run, not one per step."""
    for run, part in frame.groupby("run"):
        path = out / "records" / str(run) / "all.parquet"
        records.write_part(path, part.to_dict("records"))
    write_json(out / "settings.json", {"chance": CHANCE, "preset": "nano", **settings})
    return out


def read_json(text: str) -> Any:
    """Parse strictly: NaN and Infinity are not JSON."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)
