"""Langevin chains: minibatch, gradient, step; and what is written down of each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from geomfast.estimators.batches import count, index_batch, joined, parts
from geomfast.estimators.checks import LossFunction
from geomfast.estimators.entries import selected, sizes_of
from geomfast.estimators.sampling.gpt_gradients import GptGradients, agrees
from geomfast.estimators.sampling.gradients import ChainGradients
from geomfast.estimators.sampling.streams import Shuffled
from geomfast.estimators.stopping import check_stop
from geomfast.kernels.sgld import OP, Dynamics, LangevinState
from geomfast.replay import WARM_UP, Replay

#: Bytes of the buffers of chains that run as one program.
STACKED_BYTES = 8 << 30
# Floating-point operations of one chain's forward pass up to which chains run as one program on the
# CPU: what takes longer fills it alone. Measured with 16 chains of GPTs 16 to 128 wide: 1.3 to 4
# times faster below, 0.7 to 0.97 above.
_STACKED_ON_CPU = 1.5e8
#: Samples on which hand-written gradients are compared with autograd's.
_COMPARED = 4
#: Number of the step whose noise chains with momentum begin with; no chain has as many.
_BEFORE = 1 << 62


@dataclass(frozen=True)
class Sampling:
    """What chains are run of.

    Attributes:
        model, loss_fn: as everywhere in geomfast; the model is called with other weights.
        parameters: by name, those that are sampled; a `Selection` where not all of their entries.
        batches: of the data.
        initial: (n,) losses of all samples at the model's own weights.
        dynamics: of the steps.
        batch_size: of a minibatch; None for all of the data at every step.
        steps: of every chain.
        seed: of noise and minibatches.
        common_batches: whether all chains see the same minibatches.
        at_once: samples of a chain that go through the model together, while their gradients add
            up; None for all that a step sees.
        curvature: largest eigenvalue of the loss's Hessian, where it is known.
        keep: whether the losses of all samples are wanted, of steps that see them all.
    """

    model: nn.Module
    loss_fn: LossFunction
    parameters: Mapping[str, Tensor]
    batches: list[Any]
    initial: Tensor
    dynamics: Dynamics
    batch_size: int | None
    steps: int
    seed: int
    common_batches: bool = False
    at_once: int | None = None
    curvature: float | None = None
    keep: bool = False


class Watcher(Protocol):
    """What is told of each step of chains, and changes nothing of them."""

    def before(self, group: ChainGroup) -> None:
        """The group's weights are the draw whose losses the next step writes down."""
        ...

    def after(self, group: ChainGroup) -> None:
        """That step has been made; `seen` has the losses of its draw."""
        ...


@dataclass
class Traces:
    """What every step saw before it moved, float64 on the CPU; NaN after a chain has diverged.

    Attributes:
        losses: (C, T) of the step's minibatch.
        excess: (C, T) the same less the loss of that minibatch at the initial weights.
        statistics: (C, T, 4) of `geomfast.kernels.sgld.sgld_step`.
        diverged: (C,) bool.
    """

    losses: Tensor
    excess: Tensor
    statistics: Tensor
    diverged: Tensor

    @classmethod
    def joined(cls, traces: list[Traces]) -> Traces:
        """Of all chains, from those of groups of them."""
        names = ("losses", "excess", "statistics", "diverged")
        return cls(*(torch.cat([getattr(t, name) for t in traces]) for name in names))

    def continued(self, later: Traces) -> Traces:
        """These and the steps of the same chains after them."""
        return Traces(
            torch.cat([self.losses, later.losses], 1),
            torch.cat([self.excess, later.excess], 1),
            torch.cat([self.statistics, later.statistics], 1),
            later.diverged,
        )


def group_size(sampling: Sampling, chains: int, stacked: bool | None) -> int:
    """How many chains run as one program.

    Args:
        sampling: what is run.
        chains: of all.
        stacked: True for as many as fit, False for one after the other, None for what is faster.
    """
    first = next(iter(sampling.parameters.values()))
    if stacked is None:
        stacked = chains > 1 and (
            first.is_cuda or by_hand(sampling) or _forward_work(sampling) <= _STACKED_ON_CPU
        )
    if not stacked:
        return 1
    size = sum(sizes_of(sampling.parameters).values())
    return max(1, min(chains, STACKED_BYTES // (3 * size * first.itemsize)))


def by_hand(sampling: Sampling) -> bool:
    """Whether gradients of the chains are those of hand-written passes: of geomfast's own GPT."""
    _, few = next(parts(sampling.batches[0], _COMPARED))
    return agrees(sampling.model, sampling.loss_fn, sampling.parameters, few)


def _forward_work(sampling: Sampling) -> int:
    """Floating-point operations of the products in a step's forward pass."""
    total = 0
    for batch in sampling.batches:
        _, batch = next(parts(batch, sampling.batch_size))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            for _, part in parts(batch, sampling.at_once):
                sampling.loss_fn(sampling.model, part)
        total += counter.get_total_flops()
        if sampling.batch_size is not None:
            break
    return total


def _together(batches: list[Any]) -> Any:
    """One batch, which minibatches are drawn from."""
    try:
        return joined(batches)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"minibatches are drawn from all of data, whose batches cannot be joined: {error}; "
            "pad them to one shape, or leave batch_size None"
        ) from error


class ChainGroup:
    """Some chains that run as one program, and may be run further.

    A step reads and writes the same memory each time, its number included, so that a GPU can replay
    it.

    Args:
        sampling: what is run.
        first_chain: index of the first, which names its noise and its minibatches.
        chains: how many.
    """

    def __init__(self, sampling: Sampling, first_chain: int, chains: int):
        self.sampling, self.first_chain, self.chains = sampling, first_chain, chains
        center = torch.cat(selected(sampling.parameters))
        weights, device = center.repeat(chains, 1), center.device
        gradients = torch.empty_like(weights)
        self.active = torch.ones(chains, dtype=torch.bool, device=device)
        moving = sampling.dynamics.momentum is not None
        self.state = LangevinState(
            weights, gradients, center, sampling.dynamics, sampling.seed,
            previous=None if moving else weights.clone(),
            velocity=self._velocity(weights) if moving else None,
            active=self.active, first_chain=first_chain,
        )  # fmt: skip
        given = sampling.model, sampling.loss_fn, sampling.parameters, weights, gradients
        self.gradients = GptGradients(*given) if by_hand(sampling) else ChainGradients(*given)
        self.at = torch.zeros(1, dtype=torch.int64, device=device)
        self._sgld_step = OP[OP.backend_for(weights)].step
        self.samples = len(sampling.initial)
        #: Steps so far.
        self.taken = 0
        #: (C, n) losses that the last step saw, where they are wanted and it saw all samples.
        self.seen: Tensor | None = None
        if sampling.keep and sampling.batch_size is None:
            shape = (chains, self.samples)
            self.seen = torch.full(shape, torch.nan, dtype=torch.float64, device=device)
        self.indices: Tensor | None = None
        self.streams: list[Shuffled] = []
        if sampling.batch_size is not None:
            self.data = _together(sampling.batches)
            numbers = range(first_chain, first_chain + chains)
            self.streams = [
                Shuffled(self.samples, sampling.batch_size, (sampling.seed, number))
                for number in (range(1) if sampling.common_batches else numbers)
            ]

    def _velocity(self, weights: Tensor) -> Tensor:
        """As it is where chains have been for long, so that they need not warm up."""
        chains, size = weights.shape
        make = OP[OP.backend_for(weights)].normals
        noise = make(chains, size, self.sampling.seed, _BEFORE, self.first_chain, weights.device)
        return noise.to(weights.dtype) * (0.5 * math.sqrt(self.sampling.dynamics.lr))

    def _minibatches(self, steps: int) -> Tensor:
        """(steps, streams, m): the samples of every step, of every chain or of all."""
        found = []
        for _ in range(steps):
            check_stop()
            found.append(torch.stack([stream.next() for stream in self.streams]))
        return torch.stack(found)

    def run(
        self,
        steps: int,
        progress: Callable[[int], None] = lambda steps: None,
        watcher: Watcher | None = None,
    ) -> Traces:
        """What so many more steps see.

        Args:
            steps: of every chain.
            progress: called with the chain steps done since it was last called.
            watcher: told of each step.
        """
        device = self.at.device
        if self.streams:
            self.indices = self._minibatches(steps).to(device)
        self.row = torch.zeros_like(self.at)
        trace = torch.full((steps, self.chains), torch.nan, dtype=torch.float64, device=device)
        self.losses, self.excess = trace, trace.clone()
        self.statistics = trace[..., None].repeat(1, 1, 4)
        replay = Replay(device, "a step of the chains")
        with replay.on_stream():
            step = self._step
            for number in range(steps):
                check_stop()
                if number == WARM_UP:
                    step = replay.captured(self._step, steps - number)
                if watcher is not None:
                    watcher.before(self)
                step()
                if watcher is not None:
                    watcher.after(self)
                self.taken += 1
                progress(self.chains)
                # Elsewhere asking would wait for the device; chains that stay are harmless.
                if device.type == "cpu" and not self.active.any():
                    break
        return Traces(
            self.losses.mT.cpu(),
            self.excess.mT.cpu(),
            self.statistics.transpose(0, 1).cpu(),
            ~self.active.cpu(),
        )

    def _step(self) -> None:
        losses, excess = self._all_data() if self.indices is None else self._minibatch()
        # A chain stays where it was when it had a finite loss last; others do not see it.
        self.active &= torch.isfinite(losses)
        statistics = self._sgld_step(self.state, self.at[0])
        nan = torch.where(self.active, 0.0, torch.nan)
        for trace, values in (
            (self.losses, losses + nan),
            (self.excess, excess + nan),
            (self.statistics, statistics),
        ):
            trace.index_copy_(0, self.row, values[None])
        self.at += 1
        self.row += 1

    def _minibatch(self) -> tuple[Tensor, Tensor]:
        """Gradients of one minibatch each; its mean loss, and that less the initial one."""
        assert self.indices is not None
        indices = self.indices.index_select(0, self.row)[0]
        shared = self.sampling.common_batches
        samples = indices.shape[1]
        found: list[Tensor] = []
        for part in indices.split(self.sampling.at_once or samples, 1):
            batch = index_batch(self.data, part[0] if shared else part)
            size = part.shape[1]
            share = size / samples
            found.append(self.gradients.add(batch, size, shared, share, first=not found))
        losses = torch.cat(found, 1).double()
        return losses.mean(1), (losses - self.sampling.initial[indices]).mean(1)

    def _all_data(self) -> tuple[Tensor, Tensor]:
        total = torch.zeros(self.chains, dtype=torch.float64, device=self.at.device)
        begin = 0
        for i, batch in enumerate(self.sampling.batches):
            for start, part in parts(batch, self.sampling.at_once):
                if total.device.type == "cpu":  # elsewhere a step may be captured
                    check_stop()
                samples = count(part, least=1)
                share = samples / self.samples
                first = i == 0 and start == 0
                losses = self.gradients.add(part, samples, True, share, first=first)
                total += losses.double().sum(1)
                if self.seen is not None:
                    self.seen[:, begin : begin + samples] = losses
                begin += samples
        mean = total / self.samples
        return mean, mean - self.sampling.initial.mean()


def size_and_norm(parameters: Mapping[str, Tensor]) -> tuple[int, float]:
    """P and |w0| of the parameters that are sampled."""
    squares = [x.double().square().sum().item() for x in selected(parameters)]
    return sum(sizes_of(parameters).values()), math.sqrt(sum(squares))
