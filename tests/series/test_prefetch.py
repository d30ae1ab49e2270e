"""The next checkpoint on its way while the present one is measured."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geomfast.series.checkpoint import Checkpoint, SourceUnreachable
from geomfast.series.prefetch import prefetched

CHECKPOINTS = [Checkpoint(step, f"step{step}") for step in range(5)]


class Slow:
    """A source that notes what is here, and how much at most."""

    def __init__(self, wait: Callable[[Checkpoint], None] = lambda checkpoint: None) -> None:
        self.wait = wait
        self.here: set[int] = set()
        self.most = 0

    def fetch(self, checkpoint: Checkpoint) -> Path:
        self.here.add(checkpoint.step)
        self.most = max(self.most, len(self.here))
        self.wait(checkpoint)
        return Path(checkpoint.name)

    def release(self, checkpoint: Checkpoint) -> None:
        self.here.remove(checkpoint.step)


def taking(series: Any, stop: Callable[[], bool] = lambda: False) -> Any:
    return prefetched(series, CHECKPOINTS, stop)


def test_all_in_order_two_at_a_time_and_none_left() -> None:
    series = Slow()
    found = []
    for checkpoint, folder in taking(series):
        found.append((checkpoint, folder()))
        series.release(checkpoint)
    assert found == [(checkpoint, Path(checkpoint.name)) for checkpoint in CHECKPOINTS]
    assert series.most == 2 and not series.here


def test_the_next_is_fetched_while_one_is_measured() -> None:
    begun = threading.Event()

    def wait(checkpoint: Checkpoint) -> None:
        if checkpoint.step == 1:
            begun.set()

    iterator = taking(Slow(wait))
    checkpoint, _ = next(iterator)
    assert checkpoint.step == 0
    assert begun.wait(10.0)  # with the first one still in hand


def test_one_that_does_not_come_leaves_the_others() -> None:
    def wait(checkpoint: Checkpoint) -> None:
        if checkpoint.step == 2:
            raise SourceUnreachable("gone")

    got = []
    for checkpoint, folder in taking(Slow(wait)):
        if checkpoint.step == 2:
            with pytest.raises(SourceUnreachable, match="gone"):
                folder()
        else:
            got.append(folder().name)
    assert got == ["step0", "step1", "step3", "step4"]


def test_a_stop_does_not_wait_for_a_download() -> None:
    forever = threading.Event()
    series = Slow(lambda checkpoint: forever.wait() and None if checkpoint.step else None)
    asked: list[bool] = []
    iterator = taking(series, lambda: bool(asked))
    next(iterator)
    asked.append(True)
    assert list(iterator) == []
    forever.set()
