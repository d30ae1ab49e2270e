"""Interface of trainers for a loop over checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


class TrainerProtocol(Protocol):
    """Members of one scale in training; a single run is a group of one.

    :class:`~geomfast.testbed.training.loop.Trainer` trains one run in buckets and any precision,
    :class:`~geomfast.testbed.training.stacked.StackedTrainer` many members as one program. What
    decides between them is in :mod:`geomfast.testbed.training.stacking`.

    Attributes:
        step: optimiser steps that every member has taken.
        seconds: wall time by what it went into: ``train``, ``measure`` and ``write``. The caller
            keeps it; it is saved and loaded with the rest.
    """

    step: int
    seconds: dict[str, float]

    @property
    def tokens(self) -> int:
        """Tokens without padding that every member has been trained on."""
        ...

    def advance(self, target: int, after_round: Callable[[], bool] = ...) -> None:
        """Train all members up to a step.

        Args:
            target: step to reach.
            after_round: called now and then, with all members at ``step``; true to stop there.

        Raises:
            TrainingDiverged: no member is left that could be trained.
        """
        ...

    def failed(self) -> dict[int, int]:
        """Seed -> step of members left as they were when a loss was not finite; waits."""
        ...

    def states(self) -> Iterator[dict[str, Tensor]]:
        """Every member's weights in order, by name as a GPT has them; views, not copies."""
        ...

    def progress(self) -> dict[str, float]:
        """State of training: ``loss`` in nats per answer token, and more; waits for the device."""
        ...

    def save(self, run_folder: Path, identity: dict[str, Any]) -> Path:
        """Write the state that training can be resumed from; returns the checkpoint's folder.

        Args:
            run_folder: folder of the checkpoints.
            identity: JSON-able description of members and settings, compared when loading.

        Raises:
            OSError: the disk is full or not writable; earlier checkpoints are untouched.
        """
        ...

    def load(self, folder: Path, identity: dict[str, Any]) -> None:
        """Put the members into the state of a checkpoint.

        Raises:
            CheckpointError: damaged, foreign, or of other training.
        """
        ...
