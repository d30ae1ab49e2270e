"""How long a call takes on a device, timed as a run would have it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_ENOUGH = 0.05  # seconds; what takes longer is timed once


@contextmanager
def as_in_a_run(threads: int) -> Iterator[None]:
    """Inside, torch has as many threads as a run will have."""
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
