"""Presets as plain data; flags of ``geomfast sweep`` override their lines one by one."""

from __future__ import annotations

from typing import Any

from geomfast.tasks import LEVELS, TASK_NAMES

_COMMON: dict[str, Any] = {
    "tasks": TASK_NAMES,
    "levels": LEVELS,
    "mixture": "joint",
    "seeds": (0,),
    "measures": ("rankme",),
    "batch_size": 168,  # seven of each of the 24 task-levels
    "precision": "fp32",
    # Collapse happens in the first 60 steps (floor near step 20), so those are seen closely.
    "dense_until": 60,
    "dense_every": 2,
    "samples": 200,  # the paper's number for a RankMe value
}

PRESETS: dict[str, dict[str, Any]] = {
    # Collapse, recovery and the first emergence events, in minutes on two cores.
    "smoke": {**_COMMON, "scales": ("nano",), "steps": 1800, "checkpoints": 60},
    # The whole curriculum at the smallest scale, under half an hour on two cores.
    "nano": {**_COMMON, "scales": ("nano",), "steps": 12_000, "checkpoints": 80},
    # The paper's grid: five scales, 24 task-levels, 200+ checkpoints. For GPU nodes.
    "paper": {
        **_COMMON,
        "scales": ("nano", "micro", "small", "medium", "large"),
        "seeds": (0, 1, 2),
        "steps": 50_000,
        "checkpoints": 220,
    },
}
