"""Definition of a task, and the random words that its examples are drawn from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geomfast.testbed.tasks.vocabulary import COMMA, EOS, EQUALS, ID, VOCABULARY_SIZE

Ids = NDArray[np.int64]
Words = NDArray[np.uint64]

#: Random 64-bit words every example owns: a multiple of Philox's four words per counter,
#: and enough for the twelve digits of the longest inputs.
WORDS_PER_EXAMPLE = 12


@dataclass(frozen=True)
class Task:
    """One algorithmic task at its three levels.

    Attributes:
        name: capitals and digits, as in the paper (arXiv:2602.15997): COPY, REV, ...
        summary: description of the task.
        sizes: description of each level.
        draw: ``(words (N, 12) uint64, level) -> (inputs (N, Li), answers (N, La))`` token ids;
            a pure function of each row of ``words``.
        chance: ``level -> `` exact-match rate of the best answer that ignores the input.
        tokens: of a task beyond the eight: its own tokens with their ids, ``[NAME]`` among them.
            Ids are from 24 up, and no other task's: what is recorded and trained stays as it is
            when tasks are added.
    """

    name: str
    summary: str
    sizes: tuple[str, str, str]
    draw: Callable[[Words, int], tuple[Ids, Ids]]
    chance: Callable[[int], float]
    tokens: Mapping[str, int] = field(default_factory=dict)

    @property
    def token(self) -> int:
        """Id of the token that examples begin with, ``[NAME]``."""
        return (self.tokens or ID)[f"[{self.name}]"]

    @property
    def vocabulary(self) -> int:
        """Rows of embedding that a model needs for it: one more than its greatest id."""
        return max(VOCABULARY_SIZE, *(id_ + 1 for id_ in self.tokens.values()), 0)

    def length(self, level: int) -> int:
        """Tokens of an example of a level."""
        return examples(self, level, "length", 0, 1).tokens.shape[1]


@dataclass(frozen=True)
class Examples:
    """N encoded examples of one task-level, all of one length L.

    Attributes:
        tokens: (N, L) ids of ``[task] input... [=] answer... [eos]``.
        answer_start: index of the first answer token; the position before it, ``[=]``, is
            the one that predicts it and the one whose activations are measured.
    """

    tokens: Ids
    answer_start: int

    @property
    def answer_tokens(self) -> int:
        """Tokens that count for loss and accuracy, ``[eos]`` included."""
        return self.tokens.shape[1] - self.answer_start


def examples(task: Task, level: int, stream: str, start: int, count: int) -> Examples:
    """Examples ``start`` to ``start + count`` of a stream.

    Example i of a stream is a function of (task, level, stream, i) alone: each owns its own
    range of Philox counters, so batch size and order of asking change nothing.

    Args:
        task: the task.
        level: 1, 2 or 3.
        stream: any name, for instance ``train-seed0`` or ``diagnostic``.
        start: index of the first example.
        count: how many.

    Returns:
        The encoded examples.
    """
    key = hashlib.sha256(f"geomfast {stream} {task.name} {level}".encode()).digest()[:16]
    generator = np.random.Philox(key=int.from_bytes(key, "little"))
    generator.advance(start * (WORDS_PER_EXAMPLE // 4))
    words = generator.random_raw(count * WORDS_PER_EXAMPLE).reshape(count, WORDS_PER_EXAMPLE)
    inputs, answers = task.draw(words, level)
    column = np.ones((count, 1), dtype=np.int64)
    tokens = np.concatenate(
        [column * task.token, inputs, column * EQUALS, answers, column * EOS], axis=1
    )
    return Examples(tokens, 1 + inputs.shape[1] + 1)


def below(words: Words, bound: int) -> Ids:
    """Uniform integers in [0, bound) from random words.

    Multiply-shift on the upper 32 bits; the bias is below bound / 2**32, under 3e-6 for every
    bound used here, and costs no rejection loop.
    """
    return (((words >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def digits(numbers: Ids, width: int) -> Ids:
    """Decimal digits, most significant first: (N,) -> (N, width), zero-padded."""
    powers = 10 ** np.arange(width - 1, -1, -1)
    return numbers[:, None] // powers % 10


def joined(*numbers: Ids) -> Ids:
    """Digit blocks (N, w_i) separated by commas: (N, sum w_i + blocks - 1)."""
    comma = np.full((numbers[0].shape[0], 1), COMMA)
    parts = [part for number in numbers for part in (comma, number)]
    return np.concatenate(parts[1:], axis=1)
