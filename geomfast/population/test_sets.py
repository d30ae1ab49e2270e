"""Test sets of a population, and what of them is judged. Does not import torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomfast.testbed.tasks.grammar import GrammarExamples, GrammarTask
from geomfast.testbed.tasks.lengths import LengthTask, diagnostic_examples

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """N fixed examples of one shape.

    Attributes:
        tokens: (N, T) int64 ids of whole examples.
        answer_start: index of the first answer token.
        starts: (N,) their first positions in the table of positions; None where all are 0.
    """

    tokens: Ids
    answer_start: int
    starts: Ids | None = None


@dataclass(frozen=True)
class Word:
    """One word of every answer.

    Attributes:
        places: (N,) its place in the answer.
        ids: (N,) what it should be.
    """

    places: Ids
    ids: Ids


@dataclass(frozen=True)
class Outcome:
    """What of a test set is judged, and recorded under a name of its own.

    Attributes:
        task: of the records.
        level: of the records.
        words: of each part of the set the word that is judged; None for whole answers.
        states: whether the measures of activations are recorded with it.
        description: of its samples, for ``settings.json``.
    """

    task: str
    level: int
    words: tuple[Word, ...] | None = None
    states: bool = True
    description: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TestSet:
    """Examples that go through the members once, however many outcomes are judged.

    Attributes:
        parts: examples of one shape each.
        outcomes: what is judged.
    """

    parts: tuple[Examples, ...]
    outcomes: tuple[Outcome, ...]

    def data(self, outcome: Outcome) -> str:
        """16 hexadecimal digits that name the samples, and what they should be answered with."""
        hashed = hashlib.sha256()
        for i, part in enumerate(self.parts):
            hashed.update(part.tokens.tobytes())
            if part.starts is not None:
                hashed.update(part.starts.tobytes())
            if outcome.words is not None:
                hashed.update(outcome.words[i].places.tobytes() + outcome.words[i].ids.tobytes())
        return hashed.hexdigest()[:16]


def length_sets(
    task: LengthTask, lengths: Sequence[int], samples: int, longest: int
) -> list[TestSet]:
    """A set for every length.

    Args:
        task: which.
        lengths: tested.
        samples: of each.
        longest: length that vocabulary and positions suffice for.
    """
    made = []
    for length in lengths:
        drawn = diagnostic_examples(task, length, samples, longest)
        description = {
            "task": task.name,
            "level": length,
            "stream": "diagnostic",
            "samples": samples,
            "longest": longest,
        }
        part = Examples(drawn.tokens, drawn.answer_start, drawn.starts)
        made.append(TestSet((part,), (Outcome(task.name, length, description=description),)))
    return made


def grammar_sets(task: GrammarTask, samples: int) -> list[TestSet]:
    """Sentences that both rules explain, and the generalization set that tells them apart.

    What is judged is :attr:`geomfast.testbed.tasks.grammar.GrammarTask.outcomes`.

    Args:
        task: which.
        samples: of each set, as equally as can be of all lengths of sentences.
    """
    ambiguous, decides, linear, whole = task.outcomes
    same, other = (_of_all_lengths(task, samples, apart=apart) for apart in (False, True))

    def outcome(name: str, words: tuple[Word, ...] | None, states: bool) -> Outcome:
        description = {"task": name, "level": 0, "stream": "diagnostic", "samples": samples}
        return Outcome(name, 0, words, states, description)

    start = [one.answer_start for one in other]
    at = [one.decisive for one in other]
    right = [
        one.tokens[np.arange(len(one.tokens)), first + place]
        for one, first, place in zip(other, start, at, strict=True)
    ]
    wrong = [one.linear for one in other]
    return [
        TestSet(_parts(same), (outcome(ambiguous, None, True),)),
        TestSet(
            _parts(other),
            (
                outcome(decides, tuple(map(Word, at, right)), True),
                outcome(linear, tuple(map(Word, at, wrong)), False),
                outcome(whole, None, False),
            ),
        ),
    ]


def _of_all_lengths(task: GrammarTask, samples: int, *, apart: bool) -> list[GrammarExamples]:
    kinds = len(task.lengths)
    counts = [samples * (i + 1) // kinds - samples * i // kinds for i in range(kinds)]
    pairs = zip(task.lengths, counts, strict=True)
    return [task.diagnostic(length, count, apart=apart) for length, count in pairs if count]


def _parts(examples: Sequence[GrammarExamples]) -> tuple[Examples, ...]:
    return tuple(Examples(one.tokens, one.answer_start) for one in examples)
