"""How many runs share a GPU: as many as fit into its free memory.

Small models leave a GPU waiting for Python most of the time; runs in processes of their own fill
each other's gaps.  Large ones gain nothing by it, and lose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from geomfast.sweep.footprint import group_bytes, memory_bytes
from geomfast.sweep.jobs import Job, StackedJob, missing

#: Of a process on a GPU that has done nothing yet: context, kernels, workspaces of libraries.
CONTEXT = 1 << 30
#: Of an estimated footprint, which is right within this factor.
MARGIN = 2
#: Share of what is free that is given out.
_SHARE = 0.9


def free_bytes(device: str) -> int:
    """Of a GPU's memory, that nobody has taken."""
    free, _ = torch.cuda.mem_get_info(device)
    return free


def footprint(work: Job | StackedJob) -> int:
    """Bytes of a GPU that a run, or a group of runs, takes until it is done; 0 if it is done."""
    members = [(job, missing(job)) for job in work.members]
    left = [memory_bytes(job, lacking.values()) for job, lacking in members if lacking]
    if not left:
        return 0
    return max(left) if isinstance(work, Job) else group_bytes(work, max(left))


def fitting(footprints: Iterable[int], free: int) -> int:
    """How many runs fit into a GPU whichever of them meet there: so many of the largest do.

    Args:
        footprints: of all runs, as estimated.
        free: bytes.

    Returns:
        1 or more: a run that may not fit has a GPU for itself.
    """
    left, count = _SHARE * free, 0
    for bytes_ in sorted(footprints, reverse=True):
        left -= MARGIN * bytes_ + CONTEXT
        if left < 0:
            break
        count += 1
    return max(1, count)


def runs_at_once(
    work: Sequence[Job | StackedJob],
    devices: Sequence[str],
    cores: int,
    free: Callable[[str], int] = free_bytes,
) -> int:
    """How many of the runs share the GPUs, each of which launches kernels from a core of its own.

    Args:
        work: all of it; what is done takes nothing.
        devices: the GPUs.
        cores: CPU cores there are.
        free: bytes of a GPU that are free.
    """
    footprints = [bytes_ for bytes_ in map(footprint, work) if bytes_]
    each = fitting(footprints, min(map(free, devices)))
    return max(len(devices), min(each * len(devices), len(footprints), cores))
