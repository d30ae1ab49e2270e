"""Going on with less where memory does not suffice."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger("geomfast")
Result = TypeVar("Result")
#: Takes one sentence for the user.
Notice = Callable[[str], None]
# What allocators say that raise a plain RuntimeError: torch's on the CPU, CUDA's own libraries.
_SAID = ("not enough memory", "can't allocate memory", "CUDA out of memory", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the host or of a device was exhausted."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


def halving(
    attempt: Callable[[int], Result],
    samples: int,
    what: str,
    *,
    least: int = 1,
    notice: Notice = logger.warning,
) -> Result:
    """The result of `attempt`, with as many samples at once as memory allows.

    Args:
        attempt: takes the number of samples that go through the model at once.
        samples: to start with.
        what: is done, for the notice.
        least: samples at once below which nothing is tried.
        notice: called with a message each time the number is halved.

    Raises:
        What `attempt` raises, also for want of memory where `least` samples are too many.
    """
    while True:
        try:
            return attempt(samples)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error) or samples <= least:
                raise
        # Out here nothing of the failed attempt is held by its error any more.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        samples = max(least, samples // 2)
        notice(f"out of memory: {what} continues with {samples} samples at a time")
