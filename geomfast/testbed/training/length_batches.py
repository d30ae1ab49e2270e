"""Training batches of a length task for many members, made where the members live.

A batch is a function of the members' seeds and the step: resuming needs no state, a member sees the
same examples alone and among others, and a GPU makes them without waiting for the host.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from geomfast.testbed.tasks.lengths import TRAINING, LengthTask, training_lengths
from geomfast.testbed.training.batches import StackedBatch
from geomfast.testbed.training.mixture import partition

#: Largest share of processed tokens that may be padding: less costs more, smaller buckets.
_MAX_PADDING = 0.2


class LengthBatches:
    """The endless training streams of a length task.

    Args:
        task: which.
        train_length: lengths are 1 to this.
        longest: length that numbers, hints and positions suffice for.
        batch_size: examples per member and step, at least ``train_length``.
        device: where they are made.

    Attributes:
        read: (A,) int64, which of a batch's M tokens predict a token of an answer.
        weights: (A,) float32, what each counts for in a member's loss, the mean over its examples
            of their nats per answer token.
        tokens: of a step and member that are no padding.
        processed: tokens with padding.

    Raises:
        ValueError: fewer examples than lengths.
    """

    replayable: ClassVar[bool] = True

    def __init__(
        self,
        task: LengthTask,
        train_length: int,
        longest: int,
        batch_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.task, self.longest = task, longest
        lengths = training_lengths(batch_size, train_length)
        self._grids: list[tuple[Tensor, Tensor, Tensor]] = []
        self._lengths: list[tuple[int, ...]] = []
        counted, shares = [], []
        # The distinct lengths are 1 to train_length, so that ranges of them are ranges of lengths.
        widths = tuple(int(task.tokens(n)) - 1 for n in range(1, train_length + 1))
        counts = tuple(int(n) for n in np.bincount(lengths)[1:])
        for first, last in partition(widths, counts, _MAX_PADDING):
            rows = np.flatnonzero((lengths > first) & (lengths <= last))[:, None]
            n, t = lengths[rows], np.arange(widths[last - 1] + 1)
            self._grids.append(
                (
                    torch.from_numpy(rows).to(device),
                    torch.from_numpy(n).to(device),
                    torch.from_numpy(t).to(device),
                )
            )
            self._lengths.append(tuple((task.tokens(n[:, 0]) - 1).tolist()))
            # The token before it predicts a token.
            answered = (t[:-1] >= task.prompt(n) - 1) & (t[:-1] < task.tokens(n) - 1)
            counted.append(answered.flatten())
            shares.append((answered / (task.answer(n) * batch_size)).flatten())
        read = np.flatnonzero(np.concatenate(counted))
        self.read = torch.from_numpy(read).to(device)
        self.weights = torch.from_numpy(np.concatenate(shares)[read]).float().to(device)
        self.tokens = int((task.tokens(lengths) - 1).sum())
        self.processed = sum(part.size for part in counted)

    def draw(self, seeds: Tensor, step: Tensor) -> StackedBatch:
        """The batch of a step.

        Args:
            seeds: (C,) int64 of the members, each below 2^32.
            step: (1,) int64, from 0, on the same device.
        """
        buckets, starts, targets = [], [], []
        for rows, lengths, positions in self._grids:
            ids, start = self.task.draw(
                TRAINING, seeds[:, None, None], step, rows, lengths, positions, self.longest
            )
            buckets.append(ids[..., :-1])
            starts.append(start[..., 0])
            targets.append(ids[..., 1:].flatten(1))
        answers = torch.cat(targets, 1).index_select(1, self.read)
        return StackedBatch(buckets, self._lengths, starts, answers, self.read, self.weights)

    def tokens_until(self, step: int) -> int:
        """Tokens without padding of a member's steps before this one."""
        return step * self.tokens
