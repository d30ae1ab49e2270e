"""Training many members of one scale: as one program, as several, or one after the other.

Whichever it is, the code is the same: a program trains the members it has.  A member's numbers do
not depend on the others: its examples and its initialisation come from its seed, its gradient is
clipped by its own norm, and products of batches keep members apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.kernels.adamw import OP, AdamW, AdamWState
from geomfast.replay import WARM_UP, Replay
from geomfast.testbed.models.scales import Scale
from geomfast.testbed.models.stacked import StackedGPT
from geomfast.testbed.models.stacked_gradients import StackedGradients
from geomfast.testbed.models.stacked_layout import Buffers
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.batches import Batches
from geomfast.testbed.training.checkpoints import CheckpointError
from geomfast.testbed.training.schedule import learning_rate
from geomfast.testbed.training.settings import TrainSettings

#: Steps that a program does before the next one has its turn.
ROUND = 10
_RUNNING = -1


class Program:
    """Members that are trained as one program.

    A step reads and writes the same memory each time, its number included, so that a GPU can replay
    it, and never waits for the device.

    Attributes:
        model: the members.
        losses: (C,) of the last step, before it; nats per answer token.
        failed_at: (C,) int64, the step at which a member's loss or gradient was not finite, -1 for
            the others.  From that step on it stays as it was.

    Args:
        scale, seeds, settings, batches, device: as of :class:`StackedTrainer`.
        buffers: memory that programs of one process may share; of its own without.
    """

    def __init__(
        self,
        scale: Scale,
        seeds: Sequence[int],
        settings: TrainSettings,
        batches: Batches,
        device: torch.device,
        buffers: Buffers | None = None,
    ) -> None:
        self.batches, self.clip = batches, settings.clip
        self.replay = Replay(device, "a step of stacked training")
        with self.replay.on_stream():
            self.model = StackedGPT(scale, seeds, device)
        weights = self.model.weights
        self.gradients = torch.zeros_like(weights)
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(weights), torch.zeros_like(weights)
        rule = AdamW(settings.betas, settings.weight_decay)
        self._state = AdamWState(
            weights, self.gradients, self.exp_avg, self.exp_avg_sq, rule, self.model.matrices
        )
        peak = settings.learning_rate or scale.learning_rate
        self.step_scalars = rule.step_scalars(_rates(settings, peak)).to(device)
        self.seeds = torch.tensor(seeds, device=device)
        self.at = torch.zeros(1, dtype=torch.int64, device=device)
        self.losses = torch.zeros(len(seeds), device=device)
        self.failed_at = torch.full_like(self.seeds, _RUNNING)
        self._adamw_step = OP[OP.backend_for(weights)].step
        self._by_hand = (
            StackedGradients(self.model, self.gradients, buffers or Buffers())
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
        losses = self.gradients_of_losses()
        norms = torch.linalg.vector_norm(self.gradients, dim=1)
        self.losses.copy_(losses)
        running = self.failed_at == _RUNNING
        finite = self.losses.isfinite() & norms.isfinite()
        self.failed_at.copy_(torch.where(running & ~finite, self.at, self.failed_at))
        self._adamw_step(
            self._state,
            self.step_scalars.index_select(0, self.at)[0],
            # As torch's clip_grad_norm_ has it.
            (self.clip / (norms + 1e-6)).clamp_max(1.0),
            running & finite,
        )
        self.at += 1

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


@lru_cache(maxsize=4)
def _rates(settings: TrainSettings, peak: float) -> list[float]:
    """The learning rate of every step, made once for programs that share it."""
    s = settings
    return [
        learning_rate(step, peak=peak, steps=s.steps, warmup=s.warmup, final=s.final_rate)
        for step in range(s.steps)
    ]


class StackedTrainer:
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
        self.seeds = tuple(seeds)
        self.device = torch.device(device)
        groups = [
            self.seeds[i : i + members_per_program]
            for i in range(0, len(self.seeds), members_per_program)
        ]
        buffers = Buffers()
        self.programs = [Program(scale, g, settings, batches, self.device, buffers) for g in groups]
        self.batches, self.steps = batches, settings.steps
        self.step = 0
        self.seconds = {"train": 0.0, "measure": 0.0, "write": 0.0}

    @property
    def tokens(self) -> int:
        """Tokens without padding that every member has been trained on."""
        return self.batches.tokens_until(self.step)

    def advance(self, target: int, after_round: Callable[[], bool] = lambda: False) -> None:
        """Train all members up to a step.

        Args:
            target: step to reach, at most the settings' ``steps``.
            after_round: called now and then, with all members at ``step``; true to stop there.
        """
        if target > self.steps:
            raise ValueError(f"target = {target} is beyond the {self.steps} steps of the schedule")
        while self.step < target:
            steps = min(ROUND, target - self.step)
            for program in self.programs:
                program.advance(steps)
            self.step += steps
            if after_round():
                return

    def losses(self) -> Tensor:
        """(C,) of the last step, on the CPU; waits for the device."""
        return torch.cat([program.losses for program in self.programs]).cpu()

    def failed(self) -> dict[int, int]:
        """Seed -> step of every member whose loss or gradient was not finite; waits."""
        steps = torch.cat([program.failed_at for program in self.programs]).tolist()
        pairs = zip(self.seeds, steps, strict=True)
        return {seed: step for seed, step in pairs if step != _RUNNING}

    def states(self) -> Iterator[dict[str, Tensor]]:
        """Every member's weights in order, by name as a GPT has them; views, not copies."""
        return chain.from_iterable(program.model.states() for program in self.programs)

    def progress(self) -> dict[str, float]:
        """Loss in nats per answer token, mean of those that train, and how many have failed."""
        failed, losses = self.failed(), self.losses()
        running = [i for i, seed in enumerate(self.seeds) if seed not in failed]
        loss = float(losses[running].mean()) if running else float("nan")
        return {"loss": loss, "failed": len(failed)}

    def save(self, run_folder: Path, identity: dict[str, Any]) -> Path:
        """Write the state that training can be resumed from; returns the checkpoint's folder.

        Raises:
            OSError: the disk is full or not writable; earlier checkpoints are untouched.
        """
        folder = run_folder / checkpoints.folder_name(self.step)
        weights = {"weights": self._gathered("weights")}
        optimizer = {name: self._gathered(name) for name in ("exp_avg", "exp_avg_sq")}
        meta = {
            "step": self.step,
            "seeds": list(self.seeds),
            "failed": [[seed, step] for seed, step in self.failed().items()],
            "losses": [repr(loss) for loss in self.losses().tolist()],  # JSON has no NaN
            "seconds": self.seconds,
        }
        checkpoints.write(folder, weights, optimizer, identity, meta)
        return folder

    def load(self, folder: Path, identity: dict[str, Any]) -> None:
        """Put the members into the state of a checkpoint.

        Raises:
            CheckpointError: damaged, foreign, of other members or another run.
        """
        meta = checkpoints.read_meta_of(folder, identity)
        if meta.get("seeds") != list(self.seeds):
            raise CheckpointError(f"{folder}: of other members: seeds {meta.get('seeds')}")
        checkpoints.require(meta, folder, "failed", "losses", "seconds")
        tensors = checkpoints.read_weights(folder) | checkpoints.read_optimizer(folder)
        try:
            failed = dict(meta["failed"])
            steps = torch.tensor([failed.get(seed, _RUNNING) for seed in self.seeds], device="cpu")
            losses = torch.tensor([float(loss) for loss in meta["losses"]], device="cpu")
            if len(losses) != len(self.seeds):
                raise ValueError(f"{len(losses)} losses of {len(self.seeds)} members")
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}: not a state of these members: {error}") from error
        whole = (len(self.seeds), self.programs[0].model.weights.shape[1])
        lacking = {"weights", "exp_avg", "exp_avg_sq"} - tensors.keys()
        if lacking or any(tuple(tensor.shape) != whole for tensor in tensors.values()):
            raise CheckpointError(f"{folder}: of other members: not {whole[1]} parameters each")
        first = 0
        for program in self.programs:
            rows = slice(first, first + program.model.members)
            with torch.no_grad():
                program.model.weights.copy_(tensors["weights"][rows])
            program.exp_avg.copy_(tensors["exp_avg"][rows])
            program.exp_avg_sq.copy_(tensors["exp_avg_sq"][rows])
            program.failed_at.copy_(steps[rows])
            program.losses.copy_(losses[rows])
            program.at.fill_(meta["step"])
            first = rows.stop
        self.step = meta["step"]
        self.seconds = dict(meta["seconds"])

    def _gathered(self, name: str) -> Tensor:
        """(C, P) of all programs."""
        parts = [
            program.model.weights if name == "weights" else getattr(program, name)
            for program in self.programs
        ]
        return torch.cat(parts)
