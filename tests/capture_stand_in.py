"""torch.cuda as a capture meets it in torch 2.11, on a machine without a GPU.

What `capture_end` does, and in which order, is that of CUDAGraph.cpp and CUDAGeneratorImpl.cpp: it
raises, where the capture was invalidated, before it ends the pool and the generator's capture.
"""

from __future__ import annotations

import contextlib
import warnings
from types import SimpleNamespace

import torch

WAITS = "called a synchronizing CUDA operation (Triggered internally)"


class State:
    def __init__(self, offset=0):
        self.offset, self.capturing = offset, False


class Generator:
    """As torch.Generator of a GPU."""

    def __init__(self, state):
        self.state = state

    def graphsafe_get_state(self):
        return Generator(self.state)

    def graphsafe_set_state(self, other):
        self.state = other.state

    def clone_state(self):
        return Generator(State(self.state.offset))

    def draw(self):
        if self.state.capturing:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.state.offset += 4
        return self.state.offset


class Cuda:
    """A device. `steps` is what happened to it; steps named in `broken` raise."""

    def __init__(self):
        self.steps: list[str] = []
        self.broken: set[str] = set()
        self.underway: list[int] = []
        self.live: set[int] = set()
        self.capturing = self.invalid = False
        self.mode = 0
        self.generator = Generator(State())
        self.pools = 0

    def step(self, name):
        self.steps.append(name)
        if name in self.broken:
            raise RuntimeError(f"{name} is broken")

    def wait(self):
        """What .item() does."""
        if self.capturing:
            self.invalid = True
            raise RuntimeError("operation not permitted when stream is capturing")
        if self.mode == 2:
            raise RuntimeError(WAITS)
        if self.mode == 1:
            warnings.warn(WAITS, stacklevel=2)

    def empty_cache(self):
        """Whether anything is freed."""
        return not self.underway

    def set_mode(self, mode):
        self.mode = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)
        warnings.warn(
            "Synchronization debug mode is a prototype feature and does not yet detect all",
            stacklevel=2,
        )

    def new_pool(self):
        self.pools += 1
        return self.pools

    def end_pool(self, _device, pool):
        self.step("end pool")
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def release_pool(self, _device, pool):
        self.step("release pool")
        self.live.remove(pool)

    def install(self, monkeypatch):
        """In place of torch's, until the test ends."""
        cuda = self

        class Graph:
            ended = False

            def capture_begin(self, pool, capture_error_mode):
                assert capture_error_mode == "thread_local"
                self.pool, self.state = pool, cuda.generator.state
                self.state.capturing = True
                cuda.underway.append(pool)
                cuda.live.add(pool)
                cuda.capturing, cuda.invalid = True, False
                cuda.step("begin")

            def capture_end(self):
                cuda.capturing = False
                cuda.step("end")
                if cuda.invalid:
                    raise RuntimeError("operation failed due to a previous error during capture")
                cuda.underway.remove(self.pool)
                self.state.capturing = False
                self.ended = True
                cuda.step("instantiate")

            def reset(self):
                cuda.step("reset")
                if self.ended:
                    cuda.live.remove(self.pool)

            def replay(self):
                cuda.step("replay")

        class Stream:
            def __init__(self, device):
                self.device = SimpleNamespace(index=0, type="cuda")

            def wait_stream(self, other):
                pass

        fakes = {
            "Stream": Stream,
            "CUDAGraph": Graph,
            "stream": lambda stream: contextlib.nullcontext(),
            "current_stream": Stream,
            "synchronize": lambda device: None,
            "graph_pool_handle": self.new_pool,
            "default_generators": (self.generator,),
            "get_sync_debug_mode": lambda: self.mode,
            "set_sync_debug_mode": self.set_mode,
            "empty_cache": lambda: self.step("empty cache"),
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        for name, fake in (("End", self.end_pool), ("Release", self.release_pool)):
            native = {"End": "_cuda_endAllocateToPool", "Release": "_cuda_releasePool"}[name]
            monkeypatch.setattr(torch._C, native, fake, raising=False)
        return self
