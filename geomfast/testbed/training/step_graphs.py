"""Training steps that a GPU repeats: one CUDA graph for each shape that batches have.

A step of a small model is some four hundred launches and views, milliseconds of Python around a
fraction of one on the device.  Batches of a mixture have the same shapes at every step where the
batch size is a multiple of the number of task-levels, so the whole step, from the forward pass to
the optimiser, can be recorded and replayed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from geomfast.replay import WARM_UP, Replay
from geomfast.testbed.training.mixture import Batch, Bucket

#: Shapes that get a graph; each holds the activations and gradients of a step. A batch size that
#: is no multiple of the task-levels gives up to one shape for each of them.
MOST_SHAPES = 4

Shapes = tuple[tuple[int, int], ...]


class StepGraphs:
    """Runs a step on batches, replayed where a GPU can.

    Args:
        device: where the step runs.
        step: done on the buckets of a batch; reads and writes the same memory at every call besides
            them, does not wait for the device, and draws no random numbers on the host.
    """

    def __init__(self, device: torch.device, step: Callable[[list[Bucket]], None]) -> None:
        self.device = device
        self._step = step
        self._replay = Replay(device, "a training step")
        self._programs: dict[Shapes, _Program] = {}

    def forget(self) -> None:
        """Drop all graphs: the memory that they read or write has been replaced."""
        self._programs = {}

    def run(self, batch: Batch, remaining: int) -> None:
        """Do the step on a batch.

        Args:
            batch: on the CPU.
            remaining: steps still to come, this one included, as far as is known.
        """
        if not self._replay.captures:
            on = self.device
            self._step([Bucket(b.inputs.to(on), b.targets.to(on)) for b in batch.buckets])
            return
        shapes = tuple((b.inputs.shape[0], b.inputs.shape[1]) for b in batch.buckets)
        # The stream of the graphs is also the one of steps that are not captured: autograd keeps
        # the stream on which a parameter was first differentiated.
        with self._replay.on_stream():
            program = self._programs.get(shapes)
            if program is None:
                program = _Program(shapes, self.device)
                if len(self._programs) < MOST_SHAPES:
                    self._programs[shapes] = program
            program.fill(batch)
            if program.calls == WARM_UP:
                program.run = self._replay.captured(
                    lambda: self._step(program.buckets), max(0, remaining) // len(self._programs)
                )
            program.calls += 1
            if program.run is None:
                self._step(program.buckets)
            else:
                program.run()


class _Program:
    """The memory that the batches of one shape are copied into, and what runs on it.

    All ids lie in one tensor, so that a batch is one copy.
    """

    def __init__(self, shapes: Shapes, device: torch.device) -> None:
        self.calls = 0
        self.run: Callable[[], object] | None = None
        counts = [rows * length for rows, length in shapes for _ in Bucket._fields]
        self.ids = torch.empty(sum(counts), dtype=torch.long, device=device)
        parts = iter(self.ids.split(counts))
        self.buckets = [Bucket(next(parts).view(s), next(parts).view(s)) for s in shapes]

    def fill(self, batch: Batch) -> None:
        """Copy a batch here without waiting for the device."""
        flat: list[Tensor] = [ids.flatten() for bucket in batch.buckets for ids in bucket]
        # Memory of the host that a copy still reads is not handed out again before it is done.
        pinned = torch.empty(
            self.ids.shape,
            dtype=torch.long,
            device="cpu",
            pin_memory=self.ids.device.type == "cuda",
        )
        torch.cat(flat, out=pinned)
        self.ids.copy_(pinned, non_blocking=True)
