"""Members that are trained together: the state of their training, and a trainer of their programs.

Whatever the members are, their parameters are rows of one buffer, so that a step of the optimiser
is one pass over memory.  A member's numbers do not depend on the others: its gradient is clipped by
its own norm, and one that is no longer finite stops alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from geomfast.kernels.adamw import OP, AdamW, AdamWState
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.checkpoints import CheckpointError
from geomfast.testbed.training.schedule import learning_rate
from geomfast.testbed.training.settings import TrainSettings

#: Steps that a program does before the next one has its turn.
ROUND = 10
_RUNNING = -1


class Members(ABC):
    """Training state of C members that are one program.

    A step reads and writes the same memory each time, its number included, so that a GPU can replay
    it, and never waits for the device.

    Attributes:
        model: the members, in whatever form they are used.
        weights: (C, P) float32 of all of them.
        gradients: (C, P), written before every :meth:`update`.
        exp_avg, exp_avg_sq: (C, P) moments of AdamW.
        at: (1,) int64, steps taken.
        losses: (C,) of the last step, before it; nats per answer token.
        failed_at: (C,) int64, the step at which a member's loss or gradient was not finite, -1 for
            the others.  From that step on it stays as it was.

    Args:
        model: the members, whose ``weights`` are theirs.
        decayed: how many of the P numbers, the first ones, weight decay is for.
        settings: of training.
        peak: learning rate at the schedule's peak.
    """

    def __init__(self, model: Any, decayed: int, settings: TrainSettings, peak: float) -> None:
        self.model: Any = model
        weights: Tensor = model.weights
        self.weights = weights
        self.gradients = torch.zeros_like(weights)
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(weights), torch.zeros_like(weights)
        rule = AdamW(settings.betas, settings.weight_decay)
        self._state = AdamWState(
            weights, self.gradients, self.exp_avg, self.exp_avg_sq, rule, decayed
        )
        self._clip = settings.clip
        self._step_scalars = rule.step_scalars(_rates(settings, peak)).to(weights.device)
        self.at = torch.zeros(1, dtype=torch.int64, device=weights.device)
        self.losses = torch.zeros(len(weights), device=weights.device)
        self.failed_at = torch.full_like(self.losses, _RUNNING, dtype=torch.int64)
        self._adamw_step = OP[OP.backend_for(weights)].step

    @abstractmethod
    def advance(self, steps: int) -> None:
        """Train for some more steps."""

    def update(self, losses: Tensor) -> None:
        """A step of AdamW with the gradients, of the members whose loss and gradient are finite.

        Args:
            losses: (C,) that the gradients are of.
        """
        norms = torch.linalg.vector_norm(self.gradients, dim=1)
        self.losses.copy_(losses)
        running = self.failed_at == _RUNNING
        finite = self.losses.isfinite() & norms.isfinite()
        self.failed_at.copy_(torch.where(running & ~finite, self.at, self.failed_at))
        self._adamw_step(
            self._state,
            self._step_scalars.index_select(0, self.at)[0],
            # As torch's clip_grad_norm_ has it.
            (self._clip / (norms + 1e-6)).clamp_max(1.0),
            running & finite,
        )
        self.at += 1


@lru_cache(maxsize=4)
def _rates(settings: TrainSettings, peak: float) -> list[float]:
    """The learning rate of every step, made once for programs that share it."""
    s = settings
    return [
        learning_rate(step, peak=peak, steps=s.steps, warmup=s.warmup, final=s.final_rate)
        for step in range(s.steps)
    ]


ProgramT = TypeVar("ProgramT", bound=Members)


class MembersTrainer(ABC, Generic[ProgramT]):
    """A group of members in progress, see :mod:`geomfast.testbed.training.protocol`.

    Attributes:
        programs: the members, in order.
        seeds: of the members.
        device: where they are.
        step, steps: taken, and of the schedule.
        seconds: that training, measuring and writing have taken.
        round: steps that a program does before the next one has its turn.

    Args:
        programs, seeds, device, steps, round: see above.
    """

    def __init__(
        self,
        programs: list[ProgramT],
        seeds: Sequence[int],
        device: torch.device,
        steps: int,
        round: int = ROUND,
    ) -> None:
        self.programs, self.seeds, self.device = programs, tuple(seeds), device
        self.step, self.steps, self.round = 0, steps, round
        self.seconds = {"train": 0.0, "measure": 0.0, "write": 0.0}

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Tokens without padding that every member has been trained on."""

    @abstractmethod
    def states(self) -> Iterator[dict[str, Tensor]]:
        """Every member's weights in order, by name; views, not copies."""

    def advance(self, target: int, after_round: Callable[[], bool] = lambda: False) -> None:
        """Train all members up to a step.

        Args:
            target: step to reach, at most the settings' ``steps``.
            after_round: called now and then, with all members at ``step``; true to stop there.
        """
        if target > self.steps:
            raise ValueError(f"target = {target} is beyond the {self.steps} steps of the schedule")
        while self.step < target:
            steps = min(self.round, target - self.step)
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
        whole = (len(self.seeds), self.programs[0].weights.shape[1])
        lacking = {"weights", "exp_avg", "exp_avg_sq"} - tensors.keys()
        if lacking or any(tuple(tensor.shape) != whole for tensor in tensors.values()):
            raise CheckpointError(f"{folder}: of other members: not {whole[1]} parameters each")
        first = 0
        for program in self.programs:
            rows = slice(first, first + len(program.weights))
            with torch.no_grad():
                program.weights.copy_(tensors["weights"][rows])
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
        return torch.cat([getattr(program, name) for program in self.programs])
