"""Order of work, and its GPU; no GPU is touched here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch

from geomfast.runs.executors.events import Work

WorkT = TypeVar("WorkT", bound=Work)


def largest_first(jobs: Iterable[WorkT]) -> list[WorkT]:
    """Jobs in the order to start them; equals stay in the order of the plan.

    The last run to finish decides how long a sweep takes; started late, the largest would be it.
    """
    return sorted(jobs, key=lambda job: job.cost, reverse=True)


def devices(asked: str) -> list[str]:
    """The devices runs are spread over: every visible GPU for ``cuda``, else the one asked for."""
    if asked == "cuda" and torch.cuda.device_count() > 1:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [asked]


def least_loaded(loads: Mapping[str, Sequence[float]]) -> str:
    """The device for the next run.

    Args:
        loads: cost of every run there, by device.

    Returns:
        The device with the least to do; of several the one with the fewest runs, then the first.
        Costs go with parameters, so the device with the least to do has the most memory left.
    """
    return min(loads, key=lambda device: (math.fsum(loads[device]), len(loads[device])))


def only(device: str, visible: str | None) -> str:
    """``CUDA_VISIBLE_DEVICES`` for a process that is to see one GPU of those visible here.

    Args:
        device: ``cuda:`` and an index.
        visible: the variable's value in this process; None where it is not set.
    """
    index = int(device.removeprefix("cuda:"))
    return str(index) if visible is None else visible.split(",")[index].strip()


def room(nodes: Iterable[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """Runs that a cluster holds at once.

    Args:
        nodes: resources of every node, ``CPU`` and ``GPU`` among them.
        cpus: CPUs a run takes.
        gpus: share of one GPU it takes; 0 for none. A run never spans two GPUs.
    """
    total = 0
    for resources in nodes:
        fits = resources.get("CPU", 0.0) / cpus
        if gpus > 0:
            each = math.floor(1 / gpus + 1e-9)
            fits = min(fits, each * math.floor(resources.get("GPU", 0.0)))
        total += math.floor(fits)
    return total
