"""Multiple-choice examples of a base: read from files, as rows of token ids, and in what order.

A row is a prompt with an answer, without its last token, which predicts nothing. Places are the
positions of a row whose state predicts a token of the answer; only their logits are ever needed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.encoding import EncodedProbes, encode
from geomfast.lm.probe_sets import ProbeItem, ProbesError, ProbeSet, read_probes
from geomfast.measures.model.options import ModelSettings
from geomfast.runs.errors import PlanError


def read_examples(path: Path) -> ProbeSet:
    """The examples of a JSONL file.

    Args:
        path: each line an object with ``prompt``, ``choices`` (two or more texts) and ``answer``
            (the index of the right one from 0, or its text).

    Raises:
        PlanError: no such file, a line that is no example, two choices of one text, fewer than two
            examples; the message has file and line.
    """
    if not path.is_file():
        raise PlanError(f"no such file: {path}")
    try:
        (found,) = read_probes(path.resolve()).values()
    except ProbesError as error:
        raise PlanError(str(error)) from error
    for number, item in enumerate(found.items, start=1):
        texts = [item.continuation(i).strip() for i in range(len(item.choices))]
        if len(set(texts)) < len(texts):
            raise PlanError(
                f"{path}, example {number}: two choices have one text: {list(item.choices)}"
            )
    return found


def content_hash(examples: ProbeSet) -> str:
    """16 hexadecimal digits that name the examples, whatever their file is called."""
    content = [[item.prompt, item.choices, item.answer] for item in examples.items]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def in_both(train: ProbeSet, test: ProbeSet) -> int:
    """Test examples whose prompt and right answer are those of a training example."""

    def key(item: ProbeItem) -> tuple[str, str]:
        return item.prompt, item.choices[item.answer]

    known = {key(item) for item in train.items}
    return sum(key(item) in known for item in test.items)


def encoded(lm: CausalLM, examples: ProbeSet, most: int | None = None) -> EncodedProbes:
    """Token ids of the examples that fit into the base's context.

    Raises:
        PlanError: the tokenizer and the examples, or the model, do not go together.
    """
    try:
        return encode(lm, examples, ModelSettings(samples=most))
    except ProbesError as error:
        raise PlanError(f"{lm.name}: {error}") from error


def alike(found: EncodedProbes) -> int:
    """Examples in which two choices have the same tokens, of which only the first can be chosen."""
    return sum(len({c.tokens for c in choices}) < len(choices) for choices in found.choices)


@dataclass(frozen=True)
class Rows:
    """R rows of token ids with their places, at most A each.

    Attributes:
        tokens: ids of every row.
        lengths: (R,) int64.
        at: (R, A) int64 positions of the places; 0 where a row has fewer.
        padding: id that rows are filled up with, on the right, where no real token looks.
    """

    tokens: tuple[tuple[int, ...], ...]
    lengths: Tensor
    at: Tensor
    padding: int

    def __len__(self) -> int:
        return len(self.tokens)

    def ids(self, rows: Tensor) -> Tensor:
        """(n, T) int64 token ids of some rows, on the CPU, T that of the longest."""
        some = [self.tokens[i] for i in rows.tolist()]
        width = max(map(len, some))
        filled = [[*row, *[self.padding] * (width - len(row))] for row in some]
        return torch.tensor(filled, device="cpu")


@dataclass(frozen=True)
class TrainRows(Rows):
    """Rows of training examples, one each.

    Attributes:
        targets: (R, A) int64 tokens that the places predict; 0 where there is no place.
        weights: (R, A) float32: one over the answer's number of tokens, 0 where there is no place.
    """

    targets: Tensor
    weights: Tensor


@dataclass(frozen=True)
class ScoredRows(Rows):
    """Rows that the choices of N test examples are scored on, by length.

    Choices that differ in their last token only share a row.

    Attributes:
        cells: (S, 4) int64: row, index of its place, token, number of the choice; by row.
        firsts: (N, 3) int64: row, index of the place that predicts the first token of the right
            answer, number of the example; by row.
        sizes: choices of every example, whose numbers go on from example to example.
        answers: index of the right one of every example.
        counts: tokens of every right answer.
        data: hash of token ids and answers.
    """

    cells: Tensor
    firsts: Tensor
    sizes: tuple[int, ...]
    answers: tuple[int, ...]
    counts: tuple[int, ...]
    data: str


def train_rows(found: EncodedProbes) -> TrainRows:
    """The rows of training examples: prompts with their right answers."""
    tokens = tuple(choice.tokens[:-1] for choice in found.right)
    starts = [choice.start for choice in found.right]
    counts = [len(c.tokens) - c.start for c in found.right]
    most = max(counts)
    at = torch.zeros(len(tokens), most, dtype=torch.int64, device="cpu")
    targets, weights = torch.zeros_like(at), torch.zeros(at.shape, device="cpu")
    for i, (choice, start, count) in enumerate(zip(found.right, starts, counts, strict=True)):
        at[i, :count] = torch.arange(start - 1, start - 1 + count, device="cpu")
        targets[i, :count] = torch.tensor(choice.tokens[start:], device="cpu")
        weights[i, :count] = 1.0 / count
    lengths = torch.tensor([len(row) for row in tokens], device="cpu")
    return TrainRows(tokens, lengths, at, found.padding, targets, weights)


def scored_rows(found: EncodedProbes) -> ScoredRows:
    """The rows that the choices of test examples are scored on."""
    choices = [choice for those in found.choices for choice in those]
    tokens = sorted({choice.tokens[:-1] for choice in choices}, key=lambda row: (len(row), row))
    row_of = {row: i for i, row in enumerate(tokens)}
    places: list[dict[int, int]] = [{} for _ in tokens]
    cells = []
    for number, choice in enumerate(choices):
        row = row_of[choice.tokens[:-1]]
        for at in range(choice.start - 1, len(choice.tokens) - 1):
            place = places[row].setdefault(at, len(places[row]))
            cells.append((row, place, choice.tokens[at + 1], number))
    firsts = []
    for number, choice in enumerate(found.right):
        row = row_of[choice.tokens[:-1]]
        firsts.append((row, places[row][choice.start - 1], number))
    at = torch.zeros(len(tokens), max(map(len, places)), dtype=torch.int64, device="cpu")
    for i, own in enumerate(places):
        at[i, : len(own)] = torch.tensor(list(own), device="cpu")
    return ScoredRows(
        tuple(tokens),
        torch.tensor([len(row) for row in tokens], device="cpu"),
        at,
        found.padding,
        torch.tensor(sorted(cells), device="cpu"),
        torch.tensor(sorted(firsts), device="cpu"),
        tuple(len(those) for those in found.choices),
        found.answers,
        tuple(len(choice.tokens) - choice.start for choice in found.right),
        found.data,
    )


@dataclass(frozen=True)
class Order:
    """The endless streams of training examples, a member's by its seed.

    An epoch is a permutation of all examples; batches go on from one epoch to the next.

    Attributes:
        examples: there are.
        batch_size: of a step.
        tokens: of all examples together.
    """

    examples: int
    batch_size: int
    tokens: int

    def draw(self, seed: int, step: int) -> np.ndarray:
        """(B,) int64 numbers of a member's examples at a step, from 0."""
        at = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(at, self.examples)
        return np.array(
            [
                _permutation(seed, int(e), self.examples)[p]
                for e, p in zip(epochs, places, strict=True)
            ]
        )

    def tokens_until(self, step: int) -> int:
        """Tokens without padding of a member's steps before this one, on average over orders."""
        return round(step * self.batch_size * self.tokens / self.examples)


@lru_cache(maxsize=128)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(count)
