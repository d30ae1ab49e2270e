"""Timing of several functions in turn, so that a slow minute of the machine hits all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleave(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    budget: float = float("inf"),
    warm_up: bool = True,
) -> dict[str, float]:
    """Median seconds of each function over rounds in which each runs once.

    The order rotates from round to round: none always runs in the wake of the same other.

    Args:
        functions: name -> call to time.
        rounds: number of timed calls of each.
        budget: seconds of timed calls after which a function sits out the rounds that are left:
            the median of a slow one is of fewer calls, but of one at least.
        warm_up: run each once before, untimed; False where it has been by other means.
    """
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for function in functions.values() if warm_up else ():
        function()
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            if sum(seconds[name]) > budget:
                continue
            start = time.perf_counter()
            functions[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def scaled(seconds: Mapping[str, float], factors: Mapping[str, float]) -> dict[str, float]:
    """Seconds of whole calls, of functions timed on a part of the work.

    Args:
        seconds: name -> median seconds.
        factors: name -> the whole over the part, of those that did a part only.
    """
    return {name: value * factors.get(name, 1.0) for name, value in seconds.items()}


def finished(call: Callable[[], object], device: str) -> Callable[[], None]:
    """The call as it is timed: until the device has finished."""

    def run() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return run
