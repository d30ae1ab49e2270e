"""Training one model: AdamW, warm-up and cosine, clipping, bucketed batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import scale_for
from geomfast.testbed.tasks import TaskLevel
from geomfast.testbed.training import by_hand, checkpoints
from geomfast.testbed.training.checkpoints import CheckpointError
from geomfast.testbed.training.mixture import IGNORE, Bucket, Mixture
from geomfast.testbed.training.precision import tf32
from geomfast.testbed.training.schedule import learning_rate
from geomfast.testbed.training.settings import TrainSettings, check_precision, peak_rate
from geomfast.testbed.training.step_graphs import StepGraphs


class TrainingDiverged(Exception):
    """The loss or its gradient stopped being finite."""


class Trainer:
    """One run in progress: a group of one, see :mod:`geomfast.testbed.training.protocol`.

    On a GPU steps are replayed CUDA graphs, see :mod:`geomfast.testbed.training.step_graphs`; small
    models on a CPU take hand-written passes, see :mod:`geomfast.testbed.training.by_hand`.

    Args:
        scale: name of the model scale.
        seed: of initialisation and of the training streams.
        levels: task-levels of the mixture.
        settings: see :class:`TrainSettings`.
        device: where to train.

    Raises:
        ValueError: the device does not have the settings' precision.
    """

    def __init__(
        self,
        scale: str,
        seed: int,
        levels: list[TaskLevel],
        settings: TrainSettings,
        device: str = "cpu",
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        check_precision(settings.precision, self.device.type)
        shape = scale_for(scale, tuple(level.task for level in levels))
        self.model = GPT(shape, seed).to(self.device)
        self.mixture = Mixture(levels, settings.batch_size, seed)
        self.peak = peak_rate(settings, scale)
        self.optimizer = self._optimizer()
        self.step = 0
        self.tokens = 0
        self.processed_tokens = 0
        self.seconds = {"train": 0.0, "measure": 0.0, "write": 0.0}
        self.loss = torch.zeros((), device=self.device)
        self._graphs = StepGraphs(self.device, self._step)
        fits = by_hand.fits(self.model, self.device, settings.precision)
        self._by_hand = by_hand.HandGradients(self.model) if fits else None

    def _optimizer(self) -> torch.optim.AdamW:
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        free = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": self.settings.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        betas = self.settings.betas
        if self.device.type != "cuda":
            return torch.optim.AdamW(groups, lr=self.peak, betas=betas, fused=True)
        # A graph reads the rate where it lies on the device; both groups share one tensor.
        rate = torch.tensor(self.peak, device=self.device)
        return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True, capturable=True)

    def train_step(self) -> None:
        """One optimiser step on the next batch.

        The loss is the mean over the batch's examples of their nats per answer token; it is left
        in ``loss`` on the device, so that reading it is the caller's choice of when to wait. The
        next step may overwrite that tensor.
        """
        s = self.settings
        batch = self.mixture.batch(self.step)
        self._set_rate(
            learning_rate(
                self.step, peak=self.peak, steps=s.steps, warmup=s.warmup, final=s.final_rate
            )
        )
        self._graphs.run(batch, s.steps - self.step)
        self.step += 1
        self.tokens += batch.real_tokens
        self.processed_tokens += batch.processed_tokens

    def advance(self, target: int, after_round: Callable[[], bool] = lambda: False) -> None:
        """Train up to a step.

        Args:
            target: step to reach.
            after_round: called after every step; true to stop there.

        Raises:
            TrainingDiverged: the last loss or a weight is not finite.
        """
        while self.step < target:
            self.train_step()
            if after_round():
                break
        self.check_finite()

    def failed(self) -> dict[int, int]:
        """Failed members: none, since a run that diverges ends."""
        return {}

    def states(self) -> Iterator[dict[str, Tensor]]:
        """The run's weights, by name; views, not copies."""
        return iter([self.model.state_dict()])

    def progress(self) -> dict[str, float]:
        """Loss in nats per answer token, tokens, and real_fraction, of the processed ones."""
        real = self.tokens / max(1, self.processed_tokens)
        return {"loss": float(self.loss), "tokens": self.tokens, "real_fraction": real}

    def save(self, run_folder: Path, identity: dict[str, Any]) -> Path:
        """Write the state a run can be resumed from; returns the checkpoint's folder.

        Raises:
            OSError: the disk is full or not writable; earlier checkpoints are untouched.
        """
        folder = run_folder / checkpoints.folder_name(self.step)
        optimizer = {}
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state.get(parameter) or {}
            for key in ("exp_avg", "exp_avg_sq"):
                optimizer[f"{key}.{name}"] = state.get(key, torch.zeros_like(parameter))
        meta = {
            "step": self.step,
            "tokens": self.tokens,
            "processed_tokens": self.processed_tokens,
            "seconds": self.seconds,
            "loss": float(self.loss),
        }
        checkpoints.write(folder, self.model.state_dict(), optimizer, identity, meta)
        return folder

    def load(self, folder: Path, identity: dict[str, Any]) -> None:
        """Put the run into the state of a checkpoint.

        Raises:
            CheckpointError: damaged, foreign, or of another run.
        """
        meta = checkpoints.read_meta_of(folder, identity)
        checkpoints.require(meta, folder, "tokens", "processed_tokens", "seconds", "loss")
        optimizer = checkpoints.read_optimizer(folder)
        checkpoints.load_weights(self.model, folder)
        try:
            for name, parameter in self.model.named_parameters():
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(meta["step"]), device=self.device),
                    "exp_avg": optimizer[f"exp_avg.{name}"].to(self.device),
                    "exp_avg_sq": optimizer[f"exp_avg_sq.{name}"].to(self.device),
                }
        except KeyError as error:
            raise CheckpointError(f"{folder}: a state without {error}") from error
        self.step, self.tokens = meta["step"], meta["tokens"]
        self.processed_tokens = meta["processed_tokens"]
        self.seconds = dict(meta["seconds"])
        self.loss = torch.tensor(meta["loss"], device=self.device)
        self._graphs.forget()

    def _step(self, buckets: list[Bucket]) -> None:
        """The part of a step on the device, the same at every step except for its data and rate."""
        loss = self._by_hand.loss(buckets) if self._by_hand else self._by_autograd(buckets)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def _by_autograd(self, buckets: list[Bucket]) -> Tensor:
        bf16 = self.settings.precision == "bf16"
        self.optimizer.zero_grad(set_to_none=True)
        with tf32(self.settings.precision == "tf32"):
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
                logits = self.model.forward_buckets([bucket.inputs for bucket in buckets])
            loss = answer_loss(logits, [bucket.targets for bucket in buckets]).mean()
            loss.backward()
        return loss

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def check_finite(self) -> None:
        """Raise :class:`TrainingDiverged` if the last loss or any weight is not finite."""
        loss = float(self.loss)
        finite = loss == loss and abs(loss) != float("inf")
        if not finite or not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise TrainingDiverged(
                f"loss {loss} at step {self.step} (learning rate {self.peak:g}): "
                "lower the learning rate"
            )


def answer_loss(logits: Tensor, targets: list[Tensor]) -> Tensor:
    """Each example's negative log-likelihood in nats per answer token.

    Examples weigh the same whatever the length of their answers: in a mean over tokens the
    twelve digits of COPY-3 would outweigh the one of PAR or CMP six to one.

    Args:
        logits: (M, V), as :meth:`GPT.forward_buckets` returns them; computed in any precision,
            summed in float32.
        targets: (N_i, T_i) ids of each bucket, :data:`IGNORE` where nothing counts; at least one
            counts in every row.

    Returns:
        (N,) float32, over the rows of all buckets.
    """
    flat = torch.cat([t.flatten() for t in targets])
    nats = F.cross_entropy(logits.float(), flat, ignore_index=IGNORE, reduction="none")
    parts = zip(nats.split([t.numel() for t in targets]), targets, strict=True)
    return torch.cat([n.view(t.shape).sum(1) / (t != IGNORE).sum(1) for n, t in parts])
