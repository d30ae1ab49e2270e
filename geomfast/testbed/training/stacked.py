"""Training many members of one scale: as one program, as several, or one after the other.

Whichever it is, the code is the same: a program trains the members it has.  A member's numbers do
not depend on the others: its examples and its initialisation come from its seed, its gradient is
clipped by its own norm, and products of batches keep members apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.replay import WARM_UP, Replay
from geomfast.testbed.models.scales import Scale
from geomfast.testbed.models.stacked import StackedGPT
from geomfast.testbed.models.stacked_gradients import StackedGradients
from geomfast.testbed.models.stacked_layout import Buffers
from geomfast.testbed.training.batches import Batches
from geomfast.testbed.training.members import Members, MembersTrainer
from geomfast.testbed.training.settings import TrainSettings


class Program(Members):
    """Members that are trained as one program.

    A step can be replayed by a GPU, see :class:`~geomfast.testbed.training.members.Members`.

    Attributes:
        model: the members.

    Args:
        scale, seeds, settings, batches, device: as of :class:`StackedTrainer`.
        buffers: memory that programs of one process may share; of its own without.
    """

    model: StackedGPT

    def __init__(
        self,
        scale: Scale,
        seeds: Sequence[int],
        settings: TrainSettings,
        batches: Batches,
        device: torch.device,
        buffers: Buffers | None = None,
    ) -> None:
        self.batches = batches
        self.replay = Replay(device, "a step of stacked training")
        with self.replay.on_stream():
            model = StackedGPT(scale, seeds, device)
        peak = settings.learning_rate or scale.learning_rate
        super().__init__(model, model.matrices, settings, peak)
        self.seeds = torch.tensor(seeds, device=device)
        self._by_hand = (
            StackedGradients(model, self.gradients, buffers or Buffers())
            if device.type == "cpu"
            else None
        )
        self._calls, self._run = 0, self._step

    def advance(self, steps: int) -> None:
        """Train for some more steps."""
        with self.replay.on_stream():
            for _ in range(steps):
                if self._calls == WARM_UP and self.batches.replayable:
                    self._run = self.replay.captured(self._step)
                self._run()
                self._calls += 1

    def _step(self) -> None:
        self.update(self.gradients_of_losses())

    def gradients_of_losses(self) -> Tensor:
        """(C,) each member's loss on its batch of the step it is at; writes the gradients."""
        batch = self.batches.draw(self.seeds, self.at)
        if self._by_hand:
            return self._by_hand.losses(*batch)
        logits = self.model.forward_buckets(batch.buckets, batch.starts, read=batch.read)
        nats = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        losses = (nats.view(len(logits), -1) * batch.weights).sum(1)
        found = torch.autograd.grad(losses.sum(), list(self.model.parameters.values()))
        for target, gradient in zip(self.model.views(self.gradients), found, strict=True):
            target.copy_(gradient)
        return losses.detach()


class StackedTrainer(MembersTrainer[Program]):
    """A group of members in progress, see :mod:`geomfast.testbed.training.protocol`.

    Args:
        scale: of every member.
        seeds: of their initialisations and their examples, each below 2^32.
        settings: see :class:`TrainSettings`; in float32.
        batches: what they are trained on.
        members_per_program: members that are one program; see
            :func:`geomfast.testbed.training.stacking.members_per_program`.
        device: where to train.

    Raises:
        ValueError: a seed or ``members_per_program`` out of range, or another precision.
    """

    def __init__(
        self,
        scale: Scale,
        seeds: Sequence[int],
        settings: TrainSettings,
        batches: Batches,
        members_per_program: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if not seeds or any(not 0 <= seed < 2**32 for seed in seeds):
            raise ValueError(f"seeds must be from 0 to 2^32 - 1, one at least, not {list(seeds)}")
        if members_per_program < 1:
            raise ValueError(f"members_per_program must be 1 or more, not {members_per_program}")
        if settings.precision != "fp32":
            raise ValueError(
                f"precision must be fp32 in stacked training, not {settings.precision}"
            )
        on = torch.device(device)
        groups = [
            seeds[i : i + members_per_program] for i in range(0, len(seeds), members_per_program)
        ]
        buffers = Buffers()
        programs = [Program(scale, g, settings, batches, on, buffers) for g in groups]
        super().__init__(programs, seeds, on, settings.steps)
        self.batches = batches

    @property
    def tokens(self) -> int:
        """Tokens without padding that every member has been trained on."""
        return self.batches.tokens_until(self.step)

    def states(self) -> Iterator[dict[str, Tensor]]:
        """Every member's weights in order, by name as a GPT has them; views, not copies."""
        return chain.from_iterable(program.model.states() for program in self.programs)
