"""Times calls on a device under the conditions of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_ENOUGH = 0.05  # seconds; what takes longer is timed once


@contextmanager
def as_in_a_run(threads: int) -> Iterator[None]:
    """Within the context, torch has as many threads as in a run."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds_of(call: Callable[[], object], on: torch.device) -> float:
    """Seconds of a call; the shorter of two where they are quick, after one that is not counted."""
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) < 3 and taken[-1] < _ENOUGH):
        _wait(on)
        begin = time.perf_counter()
        call()
        _wait(on)
        taken.append(time.perf_counter() - begin)
    return min(taken[1:])


def _wait(on: torch.device) -> None:
    if on.type == "cuda":
        torch.cuda.synchronize(on)
