"""Texts of a corpus: read from a file, as token ids of one model, and through it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.encoding import Choice, answer_batch, refuse_unknown_tokens, text_tokens
from geomfast.lm.probe_sets import ProbesError, lines_of, require_text
from geomfast.lm.reading import Reading, read
from geomfast.lm.trees import Tree
from geomfast.lm.ways import ROWS
from geomfast.measures.memory import Notice, halving, logger
from geomfast.measures.model.options import ModelSettings

#: Tokens of a text that are read, where nothing else is asked for.
TOKENS = 512
# Texts that are laid out at once: what is known of every token takes more memory than the token.
_TREES = 1024


@dataclass(frozen=True)
class TextSet:
    """Texts of one corpus.

    Attributes:
        name: the task that records name.
        texts: two or more.
        tokens: that are read of each, its first ones.
    """

    name: str
    texts: tuple[str, ...]
    tokens: int = TOKENS

    def __post_init__(self) -> None:
        try:
            require_text(self.name, "name")
        except ValueError as error:
            raise ProbesError(f"texts: {error}; rename their file") from error


@dataclass(frozen=True)
class EncodedTexts:
    """The texts of a corpus that have two tokens or more, as token ids.

    Attributes:
        name: of the corpus.
        rows: tokens of every text, its first ones.
        skipped: texts that are left out, as they are shorter.
        notice: a sentence about them; empty where there are none.
        padding, device, data: as of :class:`geomfast.lm.encoding.EncodedProbes`.
    """

    name: str
    rows: tuple[tuple[int, ...], ...]
    skipped: int
    notice: str
    padding: int
    device: torch.device
    data: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def batch(self) -> dict[str, Tensor]:
        """The batch for :func:`geomfast.lm.encoding.answer_loss`, with all texts: every token but
        the first is an answer to those before it."""
        return answer_batch([Choice(row, 1, 0) for row in self.rows], self.padding, self.device)


def read_texts(source: str | os.PathLike[str], tokens: int = TOKENS) -> TextSet:
    """Texts from a file, whose name is the set's.

    Args:
        source: ``*.jsonl``, of which a line is an object with `text`, whatever else it has, or a
            text in quotes; any other file is of one text a line, lines without text left out.
        tokens: that are read of each text, 2 or more.

    Raises:
        ProbesError: no such file; a line that is none of these, with file and line; fewer than two.
        ValueError: too few tokens.
    """
    if tokens < 2:
        raise ValueError(f"tokens of a text must be 2 or more, not {tokens}")
    path = Path(source).expanduser()
    if not path.is_file():
        raise ProbesError(f"no such file: {path}")
    texts: list[str] = []
    for number, line in lines_of(path):
        if path.suffix != ".jsonl":
            texts.append(line)
            continue
        try:
            texts.append(_text(line))
        except (ValueError, RecursionError) as error:
            raise ProbesError(f"{path}, line {number}: {error}") from error
    if len(texts) < 2:
        raise ProbesError(f"{path} has {len(texts)} texts; 2 or more are needed")
    return TextSet(path.stem, tuple(texts), tokens)


def _text(line: str) -> str:
    found: Any = json.loads(line)
    if isinstance(found, dict):
        if "text" not in found:
            raise ValueError(f"no 'text' among {', '.join(map(repr, found)):.200}")
        found = found["text"]
    if not isinstance(found, str):
        raise ValueError(f"text must be a text, not {found!r:.60}")
    if not found.strip():
        raise ValueError("text is empty; leave the line out")
    require_text(found, "text")
    return found


def encode_texts(lm: CausalLM, texts: TextSet, how: ModelSettings | None = None) -> EncodedTexts:
    """The token ids of a corpus' texts, as far as they are read.

    An end token that the tokenizer adds is left out; one that it begins with is a token as others.

    Args:
        lm: whose tokenizer and context count.
        texts: of :func:`read_texts`.
        how: `samples`, where there are more, takes the first of those that are long enough.

    Raises:
        ProbesError: fewer than two texts have two tokens; more tokens are asked for than the
            context has; a token that the model has no embedding for.
    """
    if lm.context is not None and texts.tokens > lm.context:
        raise ProbesError(
            f"{texts.name}: {texts.tokens} tokens of a text are asked for, and the context of "
            f"{lm.name} is {lm.context}; ask for no more than that (--text-tokens {lm.context})"
        )
    most = (how or ModelSettings()).samples
    rows: list[tuple[int, ...]] = []
    skipped = 0
    for text in texts.texts:
        if len(rows) == most:
            break
        row = text_tokens(lm, text, texts.tokens)
        if len(row) < 2:
            skipped += 1
            continue
        refuse_unknown_tokens(lm, row)
        rows.append(row)
    notice = ""
    if skipped:
        count = "1 text" if skipped == 1 else f"{skipped} texts"
        notice = f"{texts.name}: {count} skipped, shorter than 2 tokens"
    if len(rows) < 2:
        raise ProbesError(f"{notice or texts.name}: {len(rows)} left, 2 or more are needed")
    data = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    return EncodedTexts(texts.name, tuple(rows), skipped, notice, lm.padding, lm.device, data)


def through(
    lm: CausalLM,
    texts: EncodedTexts,
    position: str | None,
    *,
    batch_size: int | None = None,
    notice: Notice = logger.warning,
) -> Reading:
    """Texts through a model: their log-probabilities, and states of the same pass.

    Texts of different lengths are padded on the right, where no token of a causal model looks.

    Args:
        lm: in whatever mode; it runs in evaluation mode.
        texts: of :func:`encode_texts`.
        position: "last", of the last token that is read of a text, or "mean"; None for no states.
        batch_size: texts at once; None for 64, but no more than make 2,048 tokens. Halved where
            memory does not suffice.
        notice: told so.

    Raises:
        ValueError: another position; logits that are not finite.
        geomfast.measures.model.states.NoStates: the model has no blocks that can be found.
    """
    if position not in ("last", "mean", None):
        raise ValueError(f"position must be last or mean of texts, not {position!r}")

    def attempt(rows: int) -> Reading:
        found = []
        for first in range(0, len(texts), _TREES):
            trees = [_tree(i, row) for i, row in enumerate(texts.rows[first : first + _TREES])]
            # All logits are read but the last ones.
            found.append(read(lm, trees, rows, position, narrow=False))
        return _joined(found)

    what = f"reading {texts.name}"
    found = halving(attempt, batch_size or ROWS, what, notice=notice)
    if found.logprobs.isnan().any():
        raise ValueError(f"{lm.name} gives logits on {texts.name} that are not finite")
    return found


def token_losses(texts: EncodedTexts, reading: Reading) -> Tensor:
    """(N,) float64 whose mean is the loss per token, and whose standard error is the loss's.

    A text counts by its tokens: the mean is a ratio of two sums, of which these are the linear
    terms.
    """
    counts = [len(row) - 1.0 for row in texts.rows]
    tokens = torch.tensor(counts, dtype=torch.float64, device="cpu")
    losses = -reading.logprobs
    mean = losses.sum() / tokens.sum()
    return mean + (losses - mean * tokens) / tokens.mean()


def _joined(parts: list[Reading]) -> Reading:
    logprobs = torch.cat([part.logprobs for part in parts])
    states = [part.states for part in parts if part.states is not None]
    if not states:
        return Reading(logprobs, None)
    return Reading(logprobs, {name: torch.cat([x[name] for x in states]) for name in states[0]})


def _tree(number: int, row: tuple[int, ...]) -> Tree:
    """A text as a tree of one branch."""
    nodes = range(len(row))
    scored = tuple((i, row[i + 1], number) for i in nodes[:-1])
    return Tree(row, tuple(i - 1 for i in nodes), scored, tuple(nodes))
