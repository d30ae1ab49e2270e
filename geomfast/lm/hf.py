"""Any causal language model of transformers: loaded, run on probe sets, measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from geomfast.estimators.behaviour import mean_and_stderr
from geomfast.estimators.stopping import check_stop
from geomfast.lm.causal_lm import DTYPES, CausalLM, load
from geomfast.lm.encoding import (
    EncodedProbes,
    answer_loss,
    encode,
    padded,
)
from geomfast.lm.hub import LoadError
from geomfast.measures.catalog import needing
from geomfast.measures.memory import Notice, halving, logger
from geomfast.measures.model.evaluation import evaluating
from geomfast.measures.model.measuring import MEASURES as ANY_MODEL
from geomfast.measures.model.measuring import MeasuredValue, check_measures, measure_model
from geomfast.measures.model.options import ModelSettings
from geomfast.measures.model.states import activations
from geomfast.measures.spec import BEHAVIOUR, OF_ACTIVATIONS

__all__ = [
    "DTYPES",
    "MEASURES",
    "Behaviour",
    "CausalLM",
    "EncodedProbes",
    "LoadError",
    "answer_loss",
    "behaviour",
    "encode",
    "load",
    "loss_fn",
    "measure_lm",
    "states",
]

#: What :func:`measure_lm` takes: what the model does, and the measures of any model.
MEASURES = (BEHAVIOUR, *ANY_MODEL)
#: `loss_fn(model, encoded.batch) -> (N,)`: nats per token of the right answers.
loss_fn = answer_loss
# Continuations, or samples, that go through the model at once.
_AT_ONCE = 64


@dataclass(frozen=True)
class Behaviour:
    """Behaviour of a model on N probes.

    Attributes:
        right: (N,) 1 where the right continuation is the likeliest of the choices.
        right_by_size: (N,) the same by log-probability per byte of text, which does not favour
            short continuations.
        logprob: (N,) nats per token of the right continuation.
    """

    right: Tensor
    right_by_size: Tensor
    logprob: Tensor


def behaviour(
    lm: CausalLM,
    probes: EncodedProbes,
    *,
    batch_size: int | None = None,
    notice: Notice = logger.warning,
) -> Behaviour:
    """Judges a model by the log-likelihood of every choice after the prompt.

    Of two equally likely choices the first counts as the model's.

    Args:
        lm: in whatever mode; it runs in evaluation mode.
        probes: of :func:`encode`.
        batch_size: rows at once; None for 64. Halved where memory does not suffice.
        notice: told so.

    Returns:
        float64 tensors on the CPU.
    """
    choices = [choice for those in probes.choices for choice in those]
    # What two continuations have in common but for their last tokens is run once.
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, choice in enumerate(choices):
        groups.setdefault(choice.tokens[:-1], []).append(number)
    order = sorted(groups, key=len)  # rows of like lengths together

    def run(size: int) -> Tensor:
        logprobs = torch.zeros(len(choices), dtype=torch.float64, device="cpu")
        for first in range(0, len(order), size):
            check_stop()
            rows = order[first : first + size]
            # Which row, position and next token, and of which choice.
            wanted = [
                (row, at, choices[number].tokens[at + 1], number)
                for row, tokens in enumerate(rows)
                for number in groups[tokens]
                for at in range(choices[number].start - 1, len(tokens))
            ]
            logits = lm.model(input_ids=padded(rows, probes.padding).to(probes.device)).logits
            row, at, token, number = torch.tensor(wanted, device="cpu").to(logits.device).unbind(1)
            found = logits[row, at].double().log_softmax(-1).gather(1, token[:, None])[:, 0]
            logprobs.index_add_(0, number.cpu(), found.cpu())
        return logprobs

    with evaluating(lm.model), torch.no_grad():
        size = batch_size or _AT_ONCE
        logprobs = halving(run, size, f"behaviour on {probes.name}", notice=notice)
    if logprobs.isnan().any():
        raise ValueError(f"{lm.name} gives logits on {probes.name} that are not finite")
    right, by_size, nats = [], [], []
    values = logprobs.split([len(those) for those in probes.choices])
    for found, those, answer in zip(values, probes.choices, probes.answers, strict=True):
        sizes = torch.tensor([choice.size for choice in those], device="cpu")
        right.append(float(found.argmax() == answer))
        by_size.append(float((found / sizes).argmax() == answer))
        nats.append(found[answer].item() / (len(those[answer].tokens) - those[answer].start))
    return Behaviour(
        *(torch.tensor(x, dtype=torch.float64, device="cpu") for x in (right, by_size, nats))
    )


def states(
    lm: CausalLM,
    probes: EncodedProbes,
    how: ModelSettings | None = None,
    *,
    notice: Notice = logger.warning,
) -> dict[str, Tensor]:
    """Activations of every layer at the prompts of a probe set.

    Args:
        lm: in whatever mode; it runs in evaluation mode.
        probes: of :func:`encode`.
        how: `position` ("last" is the position that predicts the first token of an answer) and
            `batch_size` (64 by default).
        notice: called with a message when memory is short.

    Returns:
        ``block 1`` ... ``block L``, each block's own output, and ``final``, the normed state that
        the output head reads -> (N, d) in the model's type.

    Raises:
        geomfast.measures.model.states.NoStates: the model has no blocks that can be found.
    """
    how = how or ModelSettings()
    # Without the mask, which says which tokens count: padded on the right, none else matters.
    return activations(
        lm.model,
        probes.prompts,
        position=how.position,
        call=lambda model, batch: model(input_ids=batch["input_ids"]),
        batch_size=how.batch_size or _AT_ONCE,
        notice=notice,
    )


def measure_lm(
    lm: CausalLM,
    probes: Iterable[EncodedProbes],
    measures: Iterable[str],
    how: ModelSettings | None = None,
    *,
    notice: Notice = logger.warning,
) -> Iterator[tuple[str, MeasuredValue]]:
    """Takes the named measures of a model on every probe set.

    Args:
        lm: of :func:`load`.
        probes: of :func:`encode`.
        measures: names from :data:`MEASURES`.
        how: None for the defaults.
        notice: called with a message when memory is short and a computation is changed.

    Returns:
        Name of the probe set and value, set after set; ``behaviour`` is recorded as ``accuracy``,
        ``accuracy_by_size`` and ``answer_logprob`` (see :class:`Behaviour`).

    Raises:
        ValueError: an unknown measure, and what :func:`measure_model` raises.
    """
    how = how or ModelSettings()
    wanted = set(measures)
    rest = check_measures(wanted - {BEHAVIOUR})
    lossy = set(rest) - set(needing(rest, *OF_ACTIVATIONS))
    for encoded in probes:
        if BEHAVIOUR in wanted:
            for found in _behaviour(lm, encoded, how, notice):
                yield encoded.name, found
        take = lambda encoded=encoded: states(lm, encoded, how, notice=notice)  # noqa: E731
        batch = encoded.batch if lossy else None
        for found in measure_model(lm.model, loss_fn, batch, rest, how, states=take, notice=notice):
            yield encoded.name, found


def _behaviour(
    lm: CausalLM, probes: EncodedProbes, how: ModelSettings, notice: Notice
) -> Iterator[MeasuredValue]:
    begin = time.perf_counter()
    seen = behaviour(lm, probes, batch_size=how.batch_size, notice=notice)
    rows = {
        "accuracy": seen.right,
        "accuracy_by_size": seen.right_by_size,
        "answer_logprob": seen.logprob,
    }
    settings = {"measure": BEHAVIOUR, "samples": how.samples, "decoding": "likeliest choice"}
    seconds = (time.perf_counter() - begin) / len(rows)
    for name, values in rows.items():
        value, stderr = mean_and_stderr(values)
        yield MeasuredValue(name, "", value, stderr, len(probes), seconds, "torch", settings)
