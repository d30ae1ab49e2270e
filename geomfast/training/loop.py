"""Training one model: AdamW, warm-up and cosine, clipping, bucketed batches."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.models.gpt import GPT
from geomfast.models.scales import SCALES
from geomfast.tasks import TaskLevel
from geomfast.training.mixture import IGNORE, Mixture
from geomfast.training.schedule import learning_rate
from geomfast.training.settings import TrainSettings, peak_rate


class TrainingDiverged(Exception):
    """The loss or its gradient stopped being finite."""


class Trainer:
    """One run in progress; ``step`` and ``tokens`` say how far it is.

    ``seconds`` is wall time by what it went into; whoever drives the run keeps it, and it is
    saved and restored with the run.

    Args:
        scale: name of the model scale.
        seed: of initialisation and of the training streams.
        levels: task-levels of the mixture.
        settings: see :class:`TrainSettings`.
        device: where to train.
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
        self.model = GPT(SCALES[scale], seed).to(self.device)
        self.mixture = Mixture(levels, settings.batch_size, seed)
        self.peak = peak_rate(settings, scale)
        self.optimizer = self._optimizer()
        self.step = 0
        self.tokens = 0
        self.processed_tokens = 0
        self.seconds = {"train": 0.0, "measure": 0.0, "write": 0.0}
        self.loss = torch.zeros((), device=self.device)

    def _optimizer(self) -> torch.optim.AdamW:
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        free = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": self.settings.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.peak, betas=self.settings.betas, fused=True)

    def _precision(self) -> AbstractContextManager[object]:
        if self.settings.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def train_step(self) -> None:
        """One optimiser step on the next batch.

        The loss is the mean over the batch's examples of their nats per answer token; it is left
        in ``loss`` on the device, so that reading it is the caller's choice of when to wait.
        """
        s = self.settings
        batch = self.mixture.batch(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        inputs = [b.inputs.to(self.device, non_blocking=True) for b in batch.buckets]
        targets = [b.targets.to(self.device, non_blocking=True) for b in batch.buckets]
        with self._precision():
            logits = self.model.forward_buckets(inputs)
        loss = answer_loss(logits, targets).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), s.clip)
        rate = learning_rate(
            self.step, peak=self.peak, steps=s.steps, warmup=s.warmup, final=s.final_rate
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.loss = loss.detach()
        self.step += 1
        self.tokens += batch.real_tokens
        self.processed_tokens += batch.processed_tokens

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
