"""Probe sets as token ids of one model: what it is run on, and what its answers are judged by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.probe_sets import ProbesError, ProbeSet
from geomfast.losses import IGNORED
from geomfast.measures.model.options import ModelSettings


@dataclass(frozen=True)
class Choice:
    """One continuation of one probe.

    Attributes:
        tokens: of prompt and continuation.
        start: index of the continuation's first token, 1 or more.
        size: bytes of the continuation's text, white space before it left out.
    """

    tokens: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class EncodedProbes:
    """The probes of a set that fit into a model's context.

    Attributes:
        name: of the set.
        choices: of every probe.
        answers: index of the right one of every probe.
        skipped: probes that are left out since one of their continuations is too long.
        notice: a sentence about them; empty where there are none.
        padding: id that fills rows up, on the right, where causal attention keeps it from every
            real token.
        device: where token ids go.
        data: hash of the token ids.
    """

    name: str
    choices: tuple[tuple[Choice, ...], ...]
    answers: tuple[int, ...]
    skipped: int
    notice: str
    padding: int
    device: torch.device
    data: str

    def __len__(self) -> int:
        return len(self.choices)

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return sum(1 / len(choices) for choices in self.choices) / len(self)

    @property
    def right(self) -> list[Choice]:
        """The right continuation of every probe."""
        return [choices[i] for choices, i in zip(self.choices, self.answers, strict=True)]

    @property
    def batch(self) -> dict[str, Tensor]:
        """The batch for :func:`answer_loss`, with all probes: tensors of N rows."""
        return answer_batch(self.right, self.padding, self.device)

    @property
    def prompts(self) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (N, T) of the prompts alone."""
        rows = [choice.tokens[: choice.start] for choice in self.right]
        ids = padded(rows, self.padding)
        lengths = torch.tensor([len(row) for row in rows], device="cpu")
        mask = torch.arange(ids.shape[1], device="cpu") < lengths[:, None]
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device).long()}


def encode(lm: CausalLM, probe_set: ProbeSet, how: ModelSettings | None = None) -> EncodedProbes:
    """The token ids of a probe set.

    Prompt and continuation are encoded together. The continuation begins where the tokens differ
    from those of the prompt alone, or behind them, and for all choices of a prompt at the first
    such place of any; an end token that the tokenizer adds is left out.

    Args:
        lm: whose tokenizer and context count.
        probe_set: of texts.
        how: `samples`, where there are more, takes the first of those that fit.

    Raises:
        ProbesError: fewer than two probes fit; a prompt without tokens; a token that the model has
            no embedding for.
    """
    most = (how or ModelSettings()).samples
    kept: list[tuple[Choice, ...]] = []
    answers: list[int] = []
    skipped = 0
    for number, item in enumerate(probe_set.items):
        if len(kept) == most:
            break
        of_prompt = text_tokens(lm, item.prompt)
        texts = [item.continuation(i) for i in range(len(item.choices))]
        every = [text_tokens(lm, item.prompt + text) for text in texts]
        # One start for all: where one choice's first token takes in the end of the prompt, the
        # others have that end among theirs, or it would count for the one alone.
        start = min(_shared(of_prompt, tokens) for tokens in every)
        choices = []
        for text, tokens in zip(texts, every, strict=True):
            if start == 0 or start == len(tokens):
                raise ProbesError(
                    f"probe {number} of {probe_set.name}: {item.prompt!r} and {text!r} have no "
                    "tokens of their own"
                )
            choices.append(Choice(tokens, start, len(text.strip().encode())))
        for choice in choices:
            refuse_unknown_tokens(lm, choice.tokens)
        if lm.context is not None and any(len(c.tokens) > lm.context for c in choices):
            skipped += 1
            continue
        kept.append(tuple(choices))
        answers.append(item.answer)
    notice = ""
    if skipped:
        probes = "1 probe" if skipped == 1 else f"{skipped} probes"
        notice = f"{probe_set.name}: {probes} skipped, longer than the context of {lm.context}"
    if len(kept) < 2:
        raise ProbesError(f"{notice or probe_set.name}: {len(kept)} left, 2 or more are needed")
    written = [[[c.tokens, c.start] for c in choices] for choices in kept]
    data = hashlib.sha256(json.dumps([written, answers]).encode()).hexdigest()[:16]
    return EncodedProbes(
        probe_set.name,
        tuple(kept),
        tuple(answers),
        skipped,
        notice,
        lm.padding,
        lm.device,
        data,
    )


def text_tokens(lm: CausalLM, text: str, most: int | None = None) -> tuple[int, ...]:
    """The tokens of a text, without an end token that the tokenizer adds.

    Args:
        lm: whose tokenizer counts.
        text: any.
        most: of them at most, the first ones; None for all.
    """
    # One more than asked for, which may be the end token.
    cut = {} if most is None else {"truncation": True, "max_length": most + 1}
    ids = list(lm.tokenizer(text, **cut)["input_ids"])
    if ids and ids[-1] == lm.tokenizer.eos_token_id and len(ids) > 1:
        ids.pop()
    return tuple(ids[:most])


def refuse_unknown_tokens(lm: CausalLM, tokens: tuple[int, ...]) -> None:
    """Refuse tokens that the model has no embedding for.

    Raises:
        ProbesError: there is one among them.
    """
    rows: int = lm.model.get_input_embeddings().weight.shape[0]  # pyright: ignore
    if (largest := max(tokens)) >= rows:
        raise ProbesError(
            f"the tokenizer of {lm.name} has a token {largest}, the model embeddings of {rows} only"
        )


def _shared(of_prompt: tuple[int, ...], tokens: tuple[int, ...]) -> int:
    """Length of the common prefix of two token sequences."""
    pairs = zip(of_prompt, tokens, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(of_prompt), len(tokens)))


def padded(rows: list[tuple[int, ...]], padding: int) -> Tensor:
    """(N, T) int64 of rows filled up on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows], device="cpu")


def answer_batch(
    choices: list[Choice], padding: int, device: torch.device | str
) -> dict[str, Tensor]:
    """The batch for :func:`answer_loss`, with some continuations.

    Returns:
        `input_ids` (N, T), without the last token, which predicts nothing; `at` (N, A), positions
        that predict the continuation's tokens; `answers` (N, A), those tokens, -100 where a
        continuation has fewer than A.
    """
    longest = max(len(choice.tokens) - choice.start for choice in choices)
    at, answers = [], []
    for choice in choices:
        tokens = choice.tokens[choice.start :]
        fill = longest - len(tokens)
        at.append([*range(choice.start - 1, len(choice.tokens) - 1), *[0] * fill])
        answers.append([*tokens, *[IGNORED] * fill])
    batch = {
        "input_ids": padded([choice.tokens[:-1] for choice in choices], padding),
        "at": torch.tensor(at, device="cpu"),
        "answers": torch.tensor(answers, device="cpu"),
    }
    return {name: x.to(device) for name, x in batch.items()}


def answer_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy over the tokens of every sample's answer.

    Rows run without a mask: they are padded on the right, where no real token of a causal model
    looks. Only the logits that predict answers leave the model's own type.

    Args:
        model: `model(input_ids=ids).logits` are (N, T, V).
        batch: of :func:`answer_batch`.

    Returns:
        (N,) nats per token, float32 at least; differentiable.
    """
    logits: Any = model(input_ids=batch["input_ids"]).logits
    answers = batch["answers"].to(logits.device)
    at = batch["at"].to(logits.device)[..., None].expand(-1, -1, logits.shape[-1])
    chosen = logits.gather(1, at)  # (N, A, V)
    chosen = chosen.float() if chosen.itemsize < 4 else chosen
    nats = F.cross_entropy(chosen.transpose(1, 2), answers, reduction="none", ignore_index=IGNORED)
    return nats.sum(1) / (answers != IGNORED).sum(1)
