"""Members of a base in training: heads or tails stacked as one program, or a model at a time.

Whichever it is, a member's numbers are rows of the same buffers, and a step is the same: losses and
gradients of a batch of each member's own, clipping, AdamW.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.population.base.plan import IN_TURN, STACKED_HEAD, train_settings
from geomfast.population.base.prepared import Prepared
from geomfast.population.base.tail import Stacked
from geomfast.population.base.trunk import logits_at
from geomfast.testbed.training.members import Members
from geomfast.testbed.training.precision import tf32


class Rows:
    """C members' parameters.

    Attributes:
        weights: (C, P) float32.
        members: C.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights, self.members = weights, len(weights)


class Program(Members):
    """Members that are trained as one program.

    Args:
        prepared: what they share.
        seeds: of the members.
    """

    model: Rows

    def __init__(self, prepared: Prepared, seeds: Sequence[int]) -> None:
        self.prepared, self.seeds = prepared, tuple(seeds)
        settings, on = train_settings(prepared.settings), prepared.device
        rows = Rows(prepared.start(seeds))
        super().__init__(rows, prepared.decayed, settings, prepared.settings.learning_rate)
        train = prepared.train
        self._lengths, self._at = train.lengths.to(on), train.at.to(on)
        self._targets = train.targets.to(on)
        self._weights = (train.weights / prepared.settings.batch_size).to(on)
        self._counts = (train.weights > 0).sum(1).numpy()

    def advance(self, steps: int) -> None:
        """Train for some more steps."""
        begin = int(self.at)
        for step in range(begin, begin + steps):
            order = self.prepared.order
            drawn = np.stack([order.draw(seed, step) for seed in self.seeds])
            width = int(self._counts[drawn].max())
            self.update(self._losses(torch.from_numpy(drawn).to(self.losses.device), width))

    @abstractmethod
    def _losses(self, drawn: Tensor, width: int) -> Tensor:
        """(C,) each member's loss on its batch; writes the gradients.

        Args:
            drawn: (C, B) int64 numbers of its examples.
            width: most places that one of them has.
        """

    @abstractmethod
    def read(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """What the members make of some of the test rows at their places.

        Returns:
            Output of the last block and normed state, (C or 1, n, A, d), where 1 stands for members
            that have the same, and logits (C, n, A, V).
        """


class HeadProgram(Program):
    """Heads over states that the trunk has given once; gradients are written by hand."""

    def __init__(self, prepared: Prepared, seeds: Sequence[int]) -> None:
        super().__init__(prepared, seeds)
        self._states, self._tested = prepared.places
        self._parameters = prepared.views(self.model.weights)
        self._into = prepared.views(self.gradients)

    def _logits(self, x: Tensor) -> Tensor:
        """(C, M, V) of states (C, M, d)."""
        weight, *bias = self._parameters
        if bias:
            return torch.baddbmm(bias[0][:, None], x, weight.mT)
        return torch.bmm(x, weight.mT)

    def _losses(self, drawn: Tensor, width: int) -> Tensor:
        x = self._states.final[:, :width][drawn].flatten(1, 2)
        targets = self._targets[:, :width][drawn].flatten(1)[..., None]
        weights = self._weights[:, :width][drawn].flatten(1)
        logprobs = F.log_softmax(self._logits(x), -1)
        losses = -(logprobs.gather(2, targets)[..., 0] * weights).sum(1)
        # Of a cross-entropy: probabilities, less one at the target.
        slope = logprobs.exp_()
        slope.scatter_add_(2, targets, torch.full_like(targets, -1, dtype=slope.dtype))
        slope *= weights[..., None]
        torch.bmm(slope.mT, x, out=self._into[0])
        for bias in self._into[1:]:
            torch.sum(slope, 1, out=bias)
        return losses

    @torch.no_grad()
    def read(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        final = self._tested.final[rows]
        x = final.flatten(0, 1).expand(self.model.members, -1, -1)
        logits = self._logits(x).unflatten(1, final.shape[:2])
        return self._tested.block[rows][None], final[None], logits


class TailProgram(Program):
    """Tails over states that the trunk has given once."""

    def __init__(self, prepared: Prepared, seeds: Sequence[int]) -> None:
        super().__init__(prepared, seeds)
        self._states, self._tested = prepared.tokens
        self._forward = Stacked(prepared.tail)
        self._parameters = [x.requires_grad_() for x in prepared.views(self.model.weights)]
        self._into = prepared.views(self.gradients)
        self._test_lengths = prepared.test.lengths.to(prepared.device)
        self._test_at = prepared.test.at.to(prepared.device)

    def _losses(self, drawn: Tensor, width: int) -> Tensor:
        x = self._states.gathered(drawn, self._lengths)
        at = self._at[:, :width][drawn]
        _, _, logits = self._forward(self._parameters, x, at)
        targets = self._targets[:, :width][drawn]
        nats = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none")
        losses = (nats.view_as(targets) * self._weights[:, :width][drawn]).sum((1, 2))
        found = torch.autograd.grad(losses.sum(), self._parameters)
        for target, gradient in zip(self._into, found, strict=True):
            target.copy_(gradient)
        return losses.detach()

    @torch.no_grad()
    def read(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        some = torch.arange(rows.start, rows.stop, device=self.losses.device)
        x = self._tested.gathered(some, self._test_lengths)
        return self._forward(self._parameters, x, self._test_at[rows])


class ModelProgram(Program):
    """One member as the whole model; its parameters are views of its row.

    Members share the modules: each is put into them when its turn comes.
    """

    def __init__(self, prepared: Prepared, seeds: Sequence[int]) -> None:
        super().__init__(prepared, seeds)
        self._own = [x[0] for x in prepared.views(self.model.weights)]
        self._into = [x[0] for x in prepared.views(self.gradients)]

    def _take_turn(self) -> None:
        network = self.prepared.model
        for name, own, into in zip(self.prepared.trained, self._own, self._into, strict=True):
            parameter = network.get_parameter(name)
            parameter.data, parameter.grad = own, into

    def _losses(self, drawn: Tensor, width: int) -> Tensor:
        self._take_turn()
        self.gradients.zero_()
        prepared, on = self.prepared, self.losses.device
        precision = prepared.settings.precision
        loss = torch.zeros((), device=on)
        for part in drawn[0].tensor_split(prepared.settings.accumulation):
            ids = prepared.train.ids(part.cpu()).to(on)
            at, targets = self._at[part][:, :width], self._targets[part][:, :width]
            with (
                tf32(precision == "tf32"),
                torch.autocast(on.type, dtype=torch.bfloat16, enabled=precision == "bf16"),
            ):
                _, _, logits = logits_at(prepared.model, prepared.anatomy, ids, at)
                nats = F.cross_entropy(
                    logits.float().flatten(0, 1), targets.flatten(), reduction="none"
                )
                some = (nats.view_as(targets) * self._weights[part][:, :width]).sum()
                some.backward()  # adds to the views of the gradients
            loss += some.detach()
        return loss[None]

    @torch.no_grad()
    def read(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        self._take_turn()
        prepared, on = self.prepared, self.losses.device
        some = torch.arange(rows.start, rows.stop, device="cpu")
        ids, at = prepared.test.ids(some).to(on), prepared.test.at[rows].to(on)
        block, final, logits = logits_at(prepared.model, prepared.anatomy, ids, at)
        return block[None], final[None], logits[None]


def programs(prepared: Prepared, seeds: Sequence[int], together: int) -> list[Program]:
    """The members as programs of so many at most, all with the way of the base."""
    way = prepared.base.way
    kind = {IN_TURN: ModelProgram, STACKED_HEAD: HeadProgram}.get(way, TailProgram)
    count = 1 if way == IN_TURN else together
    return [kind(prepared, seeds[i : i + count]) for i in range(0, len(seeds), count)]
