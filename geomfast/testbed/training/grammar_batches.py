"""Training batches of a grammar task for many members, made where the members live.

As :mod:`geomfast.testbed.training.length_batches`: a batch is a function of the members' seeds and
the step alone.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from geomfast.testbed.tasks.grammar import GrammarTask
from geomfast.testbed.tasks.lengths import TRAINING
from geomfast.testbed.training.batches import StackedBatch


class GrammarBatches:
    """The endless training streams of a grammar task; half of the examples are copied.

    Args:
        task: which.
        mixture: share of transformed sentences in which the rules differ, 0 to 1.
        embedded: share of copied sentences in which they would.
        batch_size: examples per member and step; every length of sentences is equally frequent.
        device: where they are made.

    Attributes:
        read: (A,) int64, which of a batch's M tokens predict a token of an answer.
        weights: (A,) float32, what each counts for in a member's loss, the mean over its examples
            of their nats per answer token.
        tokens: of a step and member; there is no padding.
        processed: the same.

    Raises:
        ValueError: fewer examples than lengths, or a share that is none.
    """

    replayable: ClassVar[bool] = True

    def __init__(
        self,
        task: GrammarTask,
        mixture: float,
        embedded: float,
        batch_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size < len(task.lengths):
            raise ValueError(
                f"batch_size = {batch_size}: a step has sentences of {len(task.lengths)} lengths"
            )
        for name, share in (("mixture", mixture), ("embedded", embedded)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} = {share:g} is not a share from 0 to 1")
        self.task, self._shares = task, {"mixture": mixture, "embedded": embedded}
        kinds = len(task.lengths)
        cuts = [batch_size * i // kinds for i in range(kinds + 1)]
        self._parts: list[tuple[int, Tensor, Tensor]] = []
        read, weights, first = [], [], 0
        for i, length in enumerate(task.lengths):
            rows = torch.arange(cuts[i], cuts[i + 1])
            places = torch.from_numpy(task.places(length))
            self._parts.append((length, rows[:, None].to(device), places.to(device)))
            width, prompt = task.tokens(length) - 1, task.prompt(length)
            at = first + width * torch.arange(len(rows))[:, None] + torch.arange(prompt - 1, width)
            read.append(at.flatten())
            weights.append(torch.full(at.shape, 1.0 / (at.shape[1] * batch_size)).flatten())
            first += width * len(rows)
        self.read = torch.cat(read).to(device)
        self.weights = torch.cat(weights).to(device)
        self.tokens = self.processed = first
        self._lengths = [(task.tokens(n) - 1,) * len(rows) for n, rows, _ in self._parts]

    def draw(self, seeds: Tensor, step: Tensor) -> StackedBatch:
        """The batch of a step.

        Args:
            seeds: (C,) int64 of the members, each below 2^32.
            step: (1,) int64, from 0, on the same device.
        """
        buckets, targets = [], []
        for length, rows, places in self._parts:
            ids, _, _ = self.task.draw(
                TRAINING, seeds[:, None, None], step, rows, length, places, **self._shares
            )
            buckets.append(ids[..., :-1])
            targets.append(ids[..., 1:].flatten(1))
        answers = torch.cat(targets, 1).index_select(1, self.read)
        return StackedBatch(buckets, self._lengths, None, answers, self.read, self.weights)

    def tokens_until(self, step: int) -> int:
        """Tokens of a member's steps before this one."""
        return step * self.tokens
