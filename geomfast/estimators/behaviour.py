"""What the model can do: exact match and answer log-probability."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.testbed.training.mixture import IGNORE


def judge(logits: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Exact match and log-probability of each answer under teacher forcing.

    An answer whose every token is the argmax given the true prefix is exactly what greedy
    decoding would produce, so one forward pass judges both.

    Args:
        logits: (N, A, V) at the positions that predict the answer tokens, ``[eos]`` included.
        answers: (N, A) ids of those tokens.

    Returns:
        ``exact`` (N,) float64, 0 or 1, and ``logprob`` (N,) float64, the mean log-probability
        of the answer's tokens in nats per token.
    """
    exact = (logits.argmax(dim=-1) == answers).all(dim=-1).double()
    logprobs = torch.log_softmax(logits.double(), dim=-1)
    chosen = logprobs.gather(-1, answers.unsqueeze(-1)).squeeze(-1)
    return exact, chosen.mean(dim=-1)


class AnswerLoss(abc.ABC):
    """What training minimises, sample by sample: (model, batch) -> (N,) nats per answer token.

    It says which logits it reads, so that others need not be computed.
    """

    def __call__(self, model: torch.nn.Module, batch: Any) -> Tensor:
        return self.of_logits(model(self.inputs(batch)), batch)

    @abc.abstractmethod
    def inputs(self, batch: Any) -> Tensor:
        """(N, T) ids that the model is given."""

    @abc.abstractmethod
    def read(self, batch: Any) -> Tensor:
        """(T,) bool: places whose logits a sample's loss depends on."""

    @abc.abstractmethod
    def of_logits(self, logits: Tensor, batch: Any) -> Tensor:
        """(N, T, V) logits -> (N,), differentiable; at places not read any finite number does."""


@dataclass(frozen=True)
class AnswersFrom(AnswerLoss):
    """Of a batch (N, T + 1) of ids of whole examples.

    Attributes:
        answer_start: index of the first answer token.
    """

    answer_start: int

    def inputs(self, batch: Tensor) -> Tensor:
        return batch[:, :-1]

    def read(self, batch: Tensor) -> Tensor:
        places = torch.arange(batch.shape[1] - 1, device=batch.device)
        return places >= self.answer_start - 1

    def of_logits(self, logits: Tensor, batch: Tensor) -> Tensor:
        said = logits[:, self.answer_start - 1 :].transpose(1, 2)
        return F.cross_entropy(said, batch[:, self.answer_start :], reduction="none").mean(1)


@dataclass(frozen=True)
class PaddedAnswers(AnswerLoss):
    """Of examples of several lengths, padded on the right to one.

    A batch has ``inputs`` (N, T), ids, and ``targets`` (N, T), ids of the next tokens,
    :data:`~geomfast.testbed.training.mixture.IGNORE` where they are no part of an answer; every row
    has at least one.
    """

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["inputs"]

    def read(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch["targets"] != IGNORE).any(0)

    def of_logits(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        targets = batch["targets"]
        said = logits.transpose(1, 2)
        nats = F.cross_entropy(said, targets, ignore_index=IGNORE, reduction="none")
        return nats.sum(1) / (targets != IGNORE).sum(1)


def mean_and_stderr(values: Tensor) -> tuple[float, float]:
    """Mean and standard error of (N,) samples; the error is NaN for N < 2."""
    mean = float(values.mean())
    if values.numel() < 2:
        return mean, float("nan")
    return mean, float(values.std() / values.numel() ** 0.5)
