"""Presets as plain data; flags of ``geomfast sweep`` override their lines one by one.

A cadence says at how many of the checkpoints a measure is taken, evenly over the list of them; what
it does not name is taken at every one.  Counts are one more than divisors of each other, as 7, 13
and 25, so that the checkpoints of a more expensive measure are among those of a cheaper one.
``geomfast sweep OUT --preset NAME --dry-run`` says what a preset costs on the machine at hand.
"""

from __future__ import annotations

from typing import Any

from geomfast.measures import measures
from geomfast.testbed.tasks import LEVELS, PAPER_TASKS

#: The paper's five geometric measures, and the linear probes of its fourth version.
_ALL = (
    "rankme",
    "probe_accuracy",
    "fisher_rank",
    "gradient_covariance_rank",
    "hessian_top",
    "llc",
)

_COMMON: dict[str, Any] = {
    "tasks": PAPER_TASKS,
    "levels": LEVELS,
    "mixture": "joint",
    "seeds": (0,),
    "measures": _ALL,
    "cadence": {},
    "batch_size": 168,  # seven of each of the 24 task-levels
    "precision": "fp32",
    # Collapse happens in the first 60 steps (floor near step 20), so those are seen closely.
    "dense_until": 60,
    "dense_every": 2,
    "samples": 200,  # the paper's number for a RankMe value
}

PRESETS: dict[str, dict[str, Any]] = {
    # Collapse, recovery and the first emergence events, in minutes on two cores.
    "smoke": {
        **_COMMON,
        "scales": ("nano",),
        "steps": 1800,
        "checkpoints": 60,
        "measures": ("rankme", "probe_accuracy"),
        "cadence": {"probe_accuracy": 30},
    },
    # The whole curriculum at the smallest scale with every measure, about an hour on two cores.
    "nano": {
        **_COMMON,
        "scales": ("nano",),
        "steps": 12_000,
        "checkpoints": 80,
        "cadence": {
            "fisher_rank": 25,
            "gradient_covariance_rank": 25,
            "hessian_top": 13,
            "llc": 7,
        },
    },
    # All six scales with the paper's measures, half an hour of an H200 by --dry-run --assume h200.
    # Long enough for the collapse and the earlier events; shorter chains than elsewhere. Not yet
    # run.
    "lite": {
        **_COMMON,
        "scales": ("nano", "micro", "small", "medium", "large", "xlarge"),
        "steps": 2000,
        "checkpoints": 60,
        "llc_draws": 100,
        "cadence": {
            "fisher_rank": 13,
            "gradient_covariance_rank": 13,
            "hessian_top": 7,
            "llc": 3,
        },
    },
    # A first look at a GPU: all six scales with everything a sweep can measure, in less than eight
    # minutes of an H200 by the arithmetic of --dry-run --assume h200. Collapse, and where recovery
    # begins; what needs long chains or many samples is as rough as can be. Not yet run on a GPU.
    "glance": {
        **_COMMON,
        "scales": ("nano", "micro", "small", "medium", "large", "xlarge"),
        "measures": measures(),
        "steps": 300,
        "checkpoints": 26,
        "dense_every": 4,
        "samples": 40,
        "llc_chains": 1,
        "llc_draws": 20,
        "trace_probes": 6,
        "density_probes": 1,
        "density_iterations": 12,
        "cadence": {
            "probe_accuracy": 7,
            "fisher_rank": 7,
            "gradient_covariance_rank": 7,
            "hessian_top": 3,
            "hessian_subspace": 3,
            "hessian_edge": 3,
            "hessian_trace": 3,
            "hessian_density": 3,
            "hessian_negative": 3,
            "llc": 3,
        },
    },
    # The paper's grid: five scales, 24 task-levels, 200+ checkpoints. For GPU nodes.
    "paper": {
        **_COMMON,
        "scales": ("nano", "micro", "small", "medium", "large"),
        "seeds": (0, 1, 2),
        "steps": 50_000,
        "checkpoints": 220,
        "cadence": {
            "fisher_rank": 97,
            "gradient_covariance_rank": 97,
            "hessian_top": 49,
            "llc": 25,
        },
    },
}
