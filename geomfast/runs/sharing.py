"""Number of runs that share a GPU: as many as fit into its free memory.

Small models leave a GPU waiting for Python most of the time; runs in processes of their own fill
each other's gaps.  Large ones gain nothing by it, and lose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

#: Of a process on a GPU that has done nothing yet: context, kernels, workspaces of libraries.
CONTEXT = 1 << 30
#: Of an estimated footprint, which is right within this factor.
MARGIN = 2
#: Share of what is free that is given out.
_SHARE = 0.9


def free_bytes(device: str) -> int:
    """Free bytes of a GPU's memory."""
    free, _ = torch.cuda.mem_get_info(device)
    return free


def fitting(footprints: Iterable[int], free: int) -> int:
    """Number of runs that fit into a GPU in any combination: as many as of the largest.

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
    footprints: Iterable[int],
    devices: Sequence[str],
    cores: int,
    free: Callable[[str], int] = free_bytes,
) -> int:
    """Number of runs that share the GPUs; each launches kernels from a core of its own.

    Args:
        footprints: bytes that each takes of a GPU, as estimated; 0 of what is done.
        devices: the GPUs.
        cores: CPU cores there are.
        free: bytes of a GPU that are free.
    """
    left = [bytes_ for bytes_ in footprints if bytes_]
    each = fitting(left, min(map(free, devices)))
    return max(len(devices), min(each * len(devices), len(left), cores))
