"""One capture of a CUDA graph, which leaves no trace where it fails.

What `torch.cuda.graph` leaves when `capture_end` raises (torch 2.11): the allocator goes on as if a
capture were under way, so that `empty_cache` and its retry after out-of-memory free nothing; its
filter points into a graph that is about to be destroyed; and the device's default generator, marked
as capturing, refuses every random number outside a capture.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch

logger = logging.getLogger("geomfast")

# Graphs whose capture failed. The allocator of pinned memory has a filter that reads its graph, and
# no way from Python to take it back: a graph that stays alive answers that nothing is its.
_failed: list[torch.cuda.CUDAGraph] = []


def capture(stream: torch.cuda.Stream, work: Callable[[], None]) -> Callable[[], object]:
    """Records the work, without doing it, and gives what does it.

    Unlike `torch.cuda.graph` this does not empty the allocator's cache, which costs more than the
    capture, and other threads may go on using the device.

    Args:
        stream: of the capture, and of all that the work queues.
        work: as in `geomfast.replay.Replay.captured`.

    Raises:
        Exception: what the work or the end of the capture raised. The allocator, the generator and
            the stream are then as they were before.
    """
    device = stream.device.index
    torch.cuda.synchronize(stream.device)
    graph = torch.cuda.CUDAGraph()
    pool: Any = torch.cuda.graph_pool_handle()
    with _own_generator_state(device), _without_collections(), torch.cuda.stream(stream):
        try:
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                # It is the work's error that says what happened.
                _tolerated("end the capture", graph.capture_end)
                raise
            graph.capture_end()
        except BaseException:
            _clean_up(graph, device, pool)
            raise
    return graph.replay


def _clean_up(graph: torch.cuda.CUDAGraph, device: int, pool: Any) -> None:
    """What `capture_end` does not do where it raises, and `reset` not without it.

    Where it did end the pool, ending it again raises, and `reset` releases it: released twice it
    would be gone while it is in use.
    """
    c: Any = torch._C
    if _tolerated("end the pool", lambda: c._cuda_endAllocateToPool(device, pool)):
        _tolerated("release the pool", lambda: c._cuda_releasePool(device, pool))
    _tolerated("reset the graph", graph.reset)
    _failed.append(graph)


def _tolerated(what: str, step: Callable[[], object]) -> bool:
    """Does a step of cleaning up, after which the others follow whether it could be done or not."""
    try:
        step()
    except Exception as error:
        logger.debug("after a failed capture, could not %s: %s", what, error)
        return False
    return True


@contextlib.contextmanager
def _own_generator_state(device: int) -> Iterator[None]:
    """Inside, the device's default generator has a copy of its state.

    Only a capture that succeeds takes the mark "capturing" from a state: neither setting its seed
    nor its offset does. So the user's state is not there to be marked, and the graphs that were
    captured with it replay as before.
    """
    generator = torch.cuda.default_generators[device]
    state = generator.graphsafe_get_state()
    generator.graphsafe_set_state(generator.clone_state())
    try:
        yield
    finally:
        generator.graphsafe_set_state(state)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Inside, no garbage is collected: graphs in it would be destroyed, which ends a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
