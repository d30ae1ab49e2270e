"""Training batches: task-levels in turn, bucketed by length so that little padding is paid for.

Example g of a run (batch b of step s is examples ``s*B`` to ``(s+1)*B``) belongs to task-level
``g mod M`` and is number ``g // M`` of that task-level's stream.  So every batch holds every
task-level equally often, and a batch is a function of the step alone: resuming needs no state.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geomfast.testbed.tasks import Examples, TaskLevel
from geomfast.testbed.tasks.vocabulary import PAD

#: Target of a position that does not count (torch's own default for cross entropy).
IGNORE = -100
#: Steps whose examples are drawn together, to draw long vectors instead of short ones.
_CHUNK = 64
#: Largest share of processed tokens that may be padding.
_MAX_PADDING = 0.08


class Bucket(NamedTuple):
    """Examples of like length: inputs and targets, both (N, T) int64."""

    inputs: Tensor
    targets: Tensor


class Batch(NamedTuple):
    """One optimiser step's examples.

    Attributes:
        buckets: the examples, grouped by length.
        real_tokens: input tokens that are not padding.
        processed_tokens: input tokens, padding included.
    """

    buckets: list[Bucket]
    real_tokens: int
    processed_tokens: int


class Mixture:
    """The endless training stream of a set of task-levels.

    Args:
        levels: the task-levels taken in turn.
        batch_size: examples per step.
        seed: names the streams; another seed sees other examples.
    """

    def __init__(self, levels: list[TaskLevel], batch_size: int, seed: int) -> None:
        self.levels = levels
        self.batch_size = batch_size
        self.stream = f"train-seed{seed}"
        self._chunk_start = -1
        self._chunk: list[tuple[int, Examples]] = []

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        chunk_start = step - step % _CHUNK
        if chunk_start != self._chunk_start:
            self._chunk = [self._span(i, chunk_start, _CHUNK) for i in range(len(self.levels))]
            self._chunk_start = chunk_start
        parts = []
        for i, (offset, drawn) in enumerate(self._chunk):
            first, last = self._numbers(i, step, 1)
            if last > first:
                parts.append((drawn.tokens[first - offset : last - offset], drawn.answer_start))
        return _bucketed(parts)

    def _numbers(self, i: int, step: int, steps: int) -> tuple[int, int]:
        """Stream numbers [first, last) of task-level ``i`` used by ``steps`` steps."""
        start, stop = step * self.batch_size, (step + steps) * self.batch_size
        count = len(self.levels)
        return (start - i + count - 1) // count, (stop - i + count - 1) // count

    def _span(self, i: int, step: int, steps: int) -> tuple[int, Examples]:
        first, last = self._numbers(i, step, steps)
        return first, self.levels[i].examples(self.stream, first, last - first)


def _bucketed(parts: list[tuple[np.ndarray, int]]) -> Batch:
    """Group (tokens (n, L), answer_start) parts into padded buckets."""
    parts = sorted(parts, key=lambda part: part[0].shape[1])
    lengths = tuple(tokens.shape[1] - 1 for tokens, _ in parts)
    counts = tuple(tokens.shape[0] for tokens, _ in parts)
    buckets, processed = [], 0
    for first, last in partition(lengths, counts, _MAX_PADDING):
        width, rows = lengths[last - 1], sum(counts[first:last])
        inputs = np.full((rows, width), PAD, dtype=np.int64)
        targets = np.full((rows, width), IGNORE, dtype=np.int64)
        row = 0
        for tokens, answer_start in parts[first:last]:
            n, length = tokens.shape
            inputs[row : row + n, : length - 1] = tokens[:, :-1]
            targets[row : row + n, answer_start - 1 : length - 1] = tokens[:, answer_start:]
            row += n
        processed += rows * width
        buckets.append(Bucket(torch.from_numpy(inputs), torch.from_numpy(targets)))
    real = sum(length * n for length, n in zip(lengths, counts, strict=True))
    return Batch(buckets, real, processed)


@lru_cache(maxsize=256)
def partition(
    lengths: tuple[int, ...], counts: tuple[int, ...], max_padding: float
) -> list[tuple[int, int]]:
    """Split ascending lengths into the fewest runs whose padding stays within a share.

    Args:
        lengths: ascending lengths.
        counts: examples of each length.
        max_padding: largest allowed padding / processed tokens.

    Returns:
        Ranges [first, last) of ``lengths``; of all splits with that few runs, the one that
        pads least (dynamic programming).
    """
    size = len(lengths)
    rows = np.concatenate([[0], np.cumsum(counts)])
    real = sum(length * n for length, n in zip(lengths, counts, strict=True))
    # best[last] = (tokens processed by lengths[:last], ranges), for the current number of runs
    best: dict[int, tuple[int, list[tuple[int, int]]]] = {0: (0, [])}
    for _ in range(size):
        extended: dict[int, tuple[int, list[tuple[int, int]]]] = {}
        for first, (cost, ranges) in best.items():
            for last in range(first + 1, size + 1):
                total = cost + int(rows[last] - rows[first]) * lengths[last - 1]
                if last not in extended or total < extended[last][0]:
                    extended[last] = (total, [*ranges, (first, last)])
        best = extended
        total, ranges = best[size]
        if total - real <= max_padding * total:
            return ranges
    return best[size][1]
