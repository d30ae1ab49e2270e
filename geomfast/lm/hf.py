"""Any causal language model of transformers: loaded, run on probe sets, measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geomfast.estimators.behaviour import mean_and_stderr
from geomfast.lm.causal_lm import DTYPES, CausalLM, load
from geomfast.lm.encoding import (
    EncodedProbes,
    answer_loss,
    encode,
)
from geomfast.lm.hub import LoadError
from geomfast.lm.reading import Reading
from geomfast.lm.texts import EncodedTexts, through, token_losses
from geomfast.lm.ways import PLAIN, ROWS, Way, fastest_way, prompt_states, run
from geomfast.measures.catalog import needing
from geomfast.measures.memory import Notice, halving, logger
from geomfast.measures.model.measuring import MEASURES as ANY_MODEL
from geomfast.measures.model.measuring import MeasuredValue, check_measures, measure_model
from geomfast.measures.model.options import ModelSettings
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
    way = fastest_way(lm, [probes], batch_size=batch_size, notice=notice)
    return _judged(lm, probes, _read(lm, probes, way, None, batch_size, notice))


def _read(
    lm: CausalLM,
    probes: EncodedProbes,
    way: Way,
    position: str | None,
    batch_size: int | None,
    notice: Notice,
) -> Reading:
    return halving(
        lambda rows: run(lm, probes, way, position, rows, notice),
        batch_size or ROWS,
        f"behaviour on {probes.name}",
        notice=notice,
    )


def _judged(lm: CausalLM, probes: EncodedProbes, reading: Reading) -> Behaviour:
    logprobs = reading.logprobs
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
    return prompt_states(lm, probes, how.position, how.batch_size or ROWS, notice)


def measure_lm(
    lm: CausalLM,
    probes: Iterable[EncodedProbes | EncodedTexts],
    measures: Iterable[str],
    how: ModelSettings | None = None,
    *,
    notice: Notice = logger.warning,
) -> Iterator[tuple[str, MeasuredValue]]:
    """Takes the named measures of a model on every probe set.

    Args:
        lm: of :func:`load`.
        probes: of :func:`encode`; and texts of :func:`geomfast.lm.texts.encode_texts`, whose
            activations are those of their last token that is read.
        measures: names from :data:`MEASURES`.
        how: None for the defaults.
        notice: called with a message when memory is short and a computation is changed.

    Returns:
        Name of the probe set and value, set after set; ``behaviour`` is recorded as ``accuracy``,
        ``accuracy_by_size`` and ``answer_logprob`` (see :class:`Behaviour`), and of texts as
        ``loss``, the mean over all tokens but each text's first, in nats.

    Raises:
        ValueError: an unknown measure, and what :func:`measure_model` raises.
    """
    how = how or ModelSettings()
    wanted = set(measures)
    rest = check_measures(wanted - {BEHAVIOUR})
    shown = needing(rest, *OF_ACTIVATIONS)
    lossy = set(rest) - set(shown)
    probes = list(probes)
    position, at_once = how.position if shown else None, how.batch_size
    way = PLAIN
    choices = [one for one in probes if isinstance(one, EncodedProbes)]
    if choices and (BEHAVIOUR in wanted or shown):
        way = fastest_way(lm, choices, position, batch_size=at_once, notice=notice)

    def read(encoded: EncodedProbes | EncodedTexts) -> Reading:
        if isinstance(encoded, EncodedTexts):
            return through(lm, encoded, position, batch_size=at_once, notice=notice)
        return _read(lm, encoded, way, position, at_once, notice)

    for encoded in probes:
        reading: Reading | None = None
        if BEHAVIOUR in wanted:
            begin = time.perf_counter()
            reading = read(encoded)
            for found in _behaviour(lm, encoded, reading, how, begin):
                yield encoded.name, found

        def take(encoded: Any = encoded, reading: Reading | None = reading) -> Any:
            if reading is None and not way.shared and isinstance(encoded, EncodedProbes):
                return states(lm, encoded, how, notice=notice)  # without the choices
            return (reading or read(encoded)).states

        batch = encoded.batch if lossy else None
        for found in measure_model(lm.model, loss_fn, batch, rest, how, states=take, notice=notice):
            yield encoded.name, found


def _behaviour(
    lm: CausalLM,
    probes: EncodedProbes | EncodedTexts,
    reading: Reading,
    how: ModelSettings,
    begin: float,
) -> Iterator[MeasuredValue]:
    """The rows of behaviour, whose seconds since `begin` are those of the pass with the states."""
    settings: dict[str, Any] = {"measure": BEHAVIOUR, "samples": how.samples}
    if isinstance(probes, EncodedTexts):
        rows = {"loss": token_losses(probes, reading)}
        settings["loss"] = "nats per token, mean"
    else:
        seen = _judged(lm, probes, reading)
        rows = {
            "accuracy": seen.right,
            "accuracy_by_size": seen.right_by_size,
            "answer_logprob": seen.logprob,
        }
        settings["decoding"] = "likeliest choice"
    seconds = (time.perf_counter() - begin) / len(rows)
    for name, values in rows.items():
        value, stderr = mean_and_stderr(values)
        yield MeasuredValue(name, "", value, stderr, len(probes), seconds, "torch", settings)
