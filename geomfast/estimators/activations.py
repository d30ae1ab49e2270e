"""One forward pass over diagnostic samples: activations of every layer, and behaviour."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geomfast.estimators.behaviour import judge

#: Where a sample's activation vector is read.
POSITIONS = ("first_answer", "answer_mean")


class Observation(NamedTuple):
    """What one forward pass shows.

    Attributes:
        activations: (layers, N, d): every block's output and then the final normed state.
        exact: (N,) 0 or 1.
        logprob: (N,) nats per answer token.
        first: (N,) 0 or 1, of the first answer token alone.
    """

    activations: Tensor
    exact: Tensor
    logprob: Tensor
    first: Tensor


@torch.no_grad()
def observe(
    model: torch.nn.Module, tokens: Tensor, answer_start: int, *, position: str = "first_answer"
) -> Observation:
    """Run a model over N samples of one length and keep what the measures need.

    Args:
        model: called as ``model(tokens, collect=list)``; returns (N, T, V) logits and appends
            (N, T, d) activations, as :class:`geomfast.testbed.models.gpt.GPT` does.
        tokens: (N, T) ids of whole examples on the model's device.
        answer_start: index of the first answer token.
        position: ``first_answer``, the position that predicts the first answer token, or
            ``answer_mean``, the mean over all positions that predict answer tokens.

    Returns:
        Activations of every layer and the judged behaviour.
    """
    if position not in POSITIONS:
        raise ValueError(f"position must be one of {', '.join(POSITIONS)}, not {position!r}")
    collected: list[Tensor] = []
    logits = model(tokens[:, :-1], collect=collected)
    if position == "first_answer":
        rows = [layer[:, answer_start - 1] for layer in collected]
    else:
        rows = [layer[:, answer_start - 1 :].mean(dim=1) for layer in collected]
    exact, logprob = judge(logits[:, answer_start - 1 :], tokens[:, answer_start:])
    first = logits[:, answer_start - 1].argmax(-1) == tokens[:, answer_start]
    return Observation(torch.stack(rows), exact, logprob, first.double())
