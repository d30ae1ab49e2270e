"""The next checkpoint comes while the present one is measured; two at most are on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geomfast.series.checkpoint import Checkpoint, Series

#: Seconds between two questions whether to stop.
_ASK_EVERY = 0.1


@dataclass
class _Fetching:
    """A checkpoint on its way."""

    checkpoint: Checkpoint
    folder: Path | None = None
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


def prefetched(
    series: Series, checkpoints: Sequence[Checkpoint], stop: Callable[[], bool]
) -> Iterator[tuple[Checkpoint, Callable[[], Path]]]:
    """Checkpoints one after the other, the next already on its way.

    The caller releases each before it asks for another, so that two are here at most.

    Args:
        series: that they are of.
        checkpoints: in the order to take them.
        stop: asked while waiting; when true the iteration ends. What is on its way then stays in
            part, for another call to resume.

    Yields:
        A checkpoint and what gives its folder, or raises what :meth:`Series.fetch` has raised.
    """
    waiting = list(checkpoints)
    coming = _start(series, waiting.pop(0)) if waiting else None
    while coming is not None:
        here = coming
        while not here.done.wait(_ASK_EVERY):
            if stop():
                return
        if stop():
            return
        coming = _start(series, waiting.pop(0)) if waiting else None
        yield here.checkpoint, lambda here=here: _folder_of(here)


def _start(series: Series, checkpoint: Checkpoint) -> _Fetching:
    fetching = _Fetching(checkpoint)

    def fetch() -> None:
        try:
            fetching.folder = series.fetch(checkpoint)
        except BaseException as error:
            fetching.error = error
        fetching.done.set()

    # A daemon: a download that hangs does not keep the process from ending.
    threading.Thread(target=fetch, name=f"fetching {checkpoint.name}", daemon=True).start()
    return fetching


def _folder_of(fetched: _Fetching) -> Path:
    if fetched.error is not None:
        raise fetched.error
    assert fetched.folder is not None
    return fetched.folder
