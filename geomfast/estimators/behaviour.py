"""What the model can do: exact match and answer log-probability."""

from __future__ import annotations

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


def answer_loss(model: torch.nn.Module, tokens: Tensor, answer_start: int) -> Tensor:
    """What training minimises, sample by sample.

    Args:
        model: `model(tokens) -> (N, T, V)` logits.
        tokens: (N, T) ids of whole examples.
        answer_start: index of the first answer token.

    Returns:
        (N,) mean cross-entropy over the answer's tokens, nats per token; differentiable.
    """
    logits = model(tokens[:, :-1])[:, answer_start - 1 :]
    answers = tokens[:, answer_start:]
    return F.cross_entropy(logits.transpose(1, 2), answers, reduction="none").mean(1)


def padded_answer_loss(model: torch.nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The same of examples of several lengths, padded on the right to one.

    Args:
        model: `model(inputs) -> (N, T, V)` logits.
        inputs: (N, T) ids.
        targets: (N, T) ids of the next tokens,
            :data:`~geomfast.testbed.training.mixture.IGNORE` where they are no part of an answer;
            every row has at least one.

    Returns:
        (N,), as :func:`answer_loss` of each example alone.
    """
    logits = model(inputs).transpose(1, 2)
    nats = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    return nats.sum(1) / (targets != IGNORE).sum(1)


def mean_and_stderr(values: Tensor) -> tuple[float, float]:
    """Mean and standard error of (N,) samples; the error is NaN for N < 2."""
    mean = float(values.mean())
    if values.numel() < 2:
        return mean, float("nan")
    return mean, float(values.std() / values.numel() ** 0.5)
