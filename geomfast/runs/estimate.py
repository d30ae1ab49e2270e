"""Work that is left and its cost, as a dry run shows it. Does not import torch."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

from geomfast.runs.executors.engine import Engine
from geomfast.runs.failures import failed_before

#: Bytes a second that states are written with, hashes included.
DISK = 4e8
#: The same that weights are hashed with, for the records to name.
HASHING = 1e9
#: Seconds until a file is on the disk.
SYNC = 0.01
#: Bytes of a process that has done nothing yet.
PROCESS_BYTES = 400 << 20
#: Bytes of a record in its file, and of a file without any.
RECORD_BYTES, PART_BYTES = 15, 6000


@dataclass(frozen=True)
class Part:
    """Cost of a part of a run on a modelled device, per run or per repetition.

    Attributes:
        operations: floating-point, of products of matrices.
        moved: bytes, of passes over numbers.
        kernels: launched, or replayed.
        device: seconds that the GPU is busy.
        seconds: that pass.
    """

    operations: float = 0.0
    moved: float = 0.0
    kernels: float = 0.0
    device: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Part) -> Part:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Part(*(one + another for one, another in pairs))

    def times(self, count: float) -> Part:
        """The cost of this part repeated ``count`` times."""
        return Part(*(count * value for value in astuple(self)))


@dataclass(frozen=True)
class Estimate:
    """Remaining work of a run, or of a group of runs, and its cost.

    Attributes:
        run: its name.
        checkpoints, of: checkpoints with something left to measure, and all.
        steps: left to train.
        seconds: by what they go into: training, writing, and each measure.
        memory: bytes at the peak, on the device.
        disk: bytes in OUT when it is done, those there already included; 0 where nothing is left.
        parts: what the seconds are made of, where they are those of a GPU that is assumed.
    """

    run: str
    checkpoints: int
    of: int
    steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    memory: int = 0
    disk: int = 0
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Total of all seconds."""
        return sum(self.seconds.values())

    def row(self, scale: str, seeds: Sequence[int]) -> dict[str, Any]:
        """The estimate as plain values, one line of a plan."""
        row: dict[str, Any] = {
            "run": self.run,
            "scale": scale,
            "seed": seeds[0] if len(seeds) == 1 else list(seeds),
            "checkpoints_left": self.checkpoints,
            "checkpoints": self.of,
            "steps_left": self.steps,
            "seconds": self.seconds,
            "total_seconds": self.total,
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
        }
        if self.checkpoints:
            row["parts"] = {name: asdict(part) for name, part in self.parts.items()}
        return row


def plan_of(
    out: Path,
    rows: list[dict[str, Any]],
    engine: Engine,
    uncertainty: str,
    *,
    modelled: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """A plan as plain values, the same keys for every command that trains.

    Args:
        out: folder of the results, which need not exist.
        rows: of all runs; see :meth:`Estimate.row`.
        engine: where they would be done.
        uncertainty: description of the uncertainty of the estimates.
        modelled: whether it is known how long each keeps a GPU busy.
        more: other keys; ``remarks`` are for a reader.
    """
    at_once = max(1, min(engine.workers or 1, len(rows)))
    return {
        "out": str(out),
        "device": engine.device,
        "threads": engine.threads,
        "runs": rows,
        "total": _total(rows, at_once, engine.gpus, modelled=modelled),
        "uncertainty": uncertainty,
        "failed_before": failed_before(out),
        **more,
    }


def _total(
    rows: list[dict[str, Any]], at_once: int, gpus: int, *, modelled: bool
) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    for row in rows:
        for what, value in row["seconds"].items():
            seconds[what] = seconds.get(what, 0.0) + value
    alone = [row["total_seconds"] for row in rows]
    busy = sum(part["device"] for row in rows for part in row.get("parts", {}).values())
    # Runs that share a GPU share its time; how much of it each leaves to others is not measured.
    wall = makespan(alone, min(at_once, gpus) if gpus and not modelled else at_once)
    largest = sorted((row["memory_bytes"] for row in rows), reverse=True)
    return {
        "runs_left": sum(row["checkpoints_left"] > 0 for row in rows),
        "seconds": seconds,
        "total_seconds": sum(seconds.values()),
        "at_once": at_once,
        "wall_seconds": max(wall, busy / max(1, gpus)),
        "device_seconds": busy,
        "memory_bytes": sum(largest[:at_once]),
        "disk_bytes": sum(row["disk_bytes"] for row in rows),
    }


def makespan(seconds: Iterable[float], at_once: int) -> float:
    """Seconds until the last run is done, where the longest are started first."""
    busy = [0.0] * max(1, at_once)
    for each in sorted(seconds, reverse=True):
        heapq.heappush(busy, heapq.heappop(busy) + each)
    return max(busy)
