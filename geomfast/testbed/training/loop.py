"""Training one model: AdamW, warm-up and cosine, clipping, bucketed batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import scale_for
from geomfast.testbed.tasks import TaskLevel
from geomfast.testbed.training.mixture import IGNORE, Bucket, Mixture
from geomfast.testbed.training.precision import tf32
from geomfast.testbed.training.schedule import learning_rate
from geomfast.testbed.training.settings import TrainSettings, check_precision, peak_rate
from geomfast.testbed.training.step_graphs import StepGraphs


class TrainingDiverged(Exception):
    """The loss or its gradient stopped being finite."""


class Trainer:
    """One run in progress; ``step`` and ``tokens`` say how far it is.

    ``seconds`` is wall time by what it went into; the caller keeps it, and it is saved and restored
    with the run. On a GPU steps are replayed CUDA graphs, see
    :mod:`geomfast.testbed.training.step_graphs`.

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
        # A graph reads the rate where it lies on the device; one tensor serves both groups.
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

    def state_replaced(self) -> None:
        """To be called by whoever gives the optimiser other tensors than it had."""
        self._graphs.forget()

    def _step(self, buckets: list[Bucket]) -> None:
        """What a step does on the device, the same at every step but for its data and rate."""
        bf16 = self.settings.precision == "bf16"
        self.optimizer.zero_grad(set_to_none=True)
        with tf32(self.settings.precision == "tf32"):
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
                logits = self.model.forward_buckets([bucket.inputs for bucket in buckets])
            loss = answer_loss(logits, [bucket.targets for bucket in buckets]).mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.loss.copy_(loss.detach())

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
