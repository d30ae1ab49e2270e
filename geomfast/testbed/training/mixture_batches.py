"""Training batches of a mixture of task-levels for many members: each sees its own stream.

Every member's batch is the one that :class:`~geomfast.testbed.training.mixture.Mixture` makes for
its seed.
Which task-levels a step holds, and so the shape of its batch, does not depend on the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from geomfast.testbed.tasks import TaskLevel
from geomfast.testbed.training.batches import StackedBatch
from geomfast.testbed.training.mixture import IGNORE, Bucket, Mixture


def stacked(members: Sequence[list[Bucket]]) -> StackedBatch:
    """The batches of members, of the same shapes, as one, on the CPU.

    Args:
        members: the buckets of each.
    """
    buckets = [torch.stack([bucket.inputs for bucket in of]) for of in zip(*members, strict=True)]
    flat = torch.stack([torch.cat([b.targets.flatten() for b in own]) for own in members])
    counted = [bucket.targets != IGNORE for bucket in members[0]]
    read = torch.cat([c.flatten() for c in counted]).nonzero().flatten()
    answers = torch.cat([c.sum(1, keepdim=True).expand_as(c).flatten() for c in counted])
    weights = 1.0 / (answers[read] * sum(len(c) for c in counted))
    # The last token of a row predicts the end of its answer.
    lengths = [
        tuple((c * torch.arange(1, c.shape[1] + 1, device="cpu")).amax(1).tolist()) for c in counted
    ]
    return StackedBatch(buckets, lengths, None, flat[:, read], read, weights)


class MixtureBatches:
    """The endless training streams of a set of task-levels.

    Args:
        levels: the task-levels taken in turn.
        batch_size: examples per member and step.
        device: where they are wanted.
    """

    replayable: ClassVar[bool] = False

    def __init__(
        self, levels: list[TaskLevel], batch_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self.levels, self.batch_size = levels, batch_size
        self.device = torch.device(device)
        self._mixtures: dict[int, Mixture] = {}
        self._tokens = [0]

    @property
    def processed(self) -> int:
        """Tokens of the first step and a member, with padding; others have about as many."""
        return self._mixture(0).batch(0).processed_tokens

    def tokens_until(self, step: int) -> int:
        """Tokens without padding of a member's steps before this one."""
        while len(self._tokens) <= step:
            batch = self._mixture(0).batch(len(self._tokens) - 1)
            self._tokens.append(self._tokens[-1] + batch.real_tokens)
        return self._tokens[step]

    def draw(self, seeds: Tensor, step: Tensor) -> StackedBatch:
        """The batch of a step.

        Args:
            seeds: (C,) int64 of the members.
            step: (1,) int64, from 0.
        """
        members = [self._mixture(seed).batch(int(step)) for seed in seeds.tolist()]
        batch = stacked([one.buckets for one in members])
        there = [x.to(self.device) for x in (batch.targets, batch.read, batch.weights)]
        buckets = [x.to(self.device) for x in batch.buckets]
        return StackedBatch(buckets, batch.lengths, None, *there)

    def _mixture(self, seed: int) -> Mixture:
        if seed not in self._mixtures:
            self._mixtures[seed] = Mixture(self.levels, self.batch_size, seed)
        return self._mixtures[seed]
