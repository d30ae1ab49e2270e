"""Interface of batches for stacked training, for every task."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor


class StackedBatch(NamedTuple):
    """One step's examples of C members.

    Attributes:
        buckets: (C, N_i, T_i) int64 input ids.
        lengths: of each bucket's rows without padding, which are the same for all members.
        starts: (C, N_i) int64 first positions; None where all are 0.
        targets: (C, A) int64 ids of the answer tokens, in the order of ``read``.
        read: (A,) int64, which of a member's M tokens predict a token of an answer.
        weights: (A,) float32, what each counts for in a member's loss, the mean over its examples
            of their nats per answer token.
    """

    buckets: list[Tensor]
    lengths: list[tuple[int, ...]]
    starts: list[Tensor] | None
    targets: Tensor
    read: Tensor
    weights: Tensor


class Batches(Protocol):
    """Endless training streams of which every member has its own.

    Attributes:
        replayable: whether they are made where the members live, without the host, so that a GPU
            can replay a step with its examples.
    """

    replayable: ClassVar[bool]

    def draw(self, seeds: Tensor, step: Tensor) -> StackedBatch:
        """The batch of a step, a function of the members' seeds (C,) and the step (1,) alone."""
        ...

    def tokens_until(self, step: int) -> int:
        """Tokens without padding of a member's steps before this one."""
        ...
