"""Tasks of length generalisation: learned on short examples, tested on longer ones. No torch here.

The tasks are those of arXiv:2502.17356 (Zhao et al., v5), after Zhou et al. (2023),
arXiv:2310.16028; their exact lengths are not public, so all of ours are options.

What an example says is written by operators that numpy arrays and torch tensors share, over grids
of examples and positions: the same lines make tests on the CPU and a training step on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomfast.philox import philox

#: An int64 numpy array or torch tensor of any shape.
Grid = Any

#: Ids that all of these tasks have; padding is 0, so that what is nothing else is padding.
PAD, EQUALS, EOS = 0, 1, 2
#: The first id that a task gives a meaning of its own.
OWN = 3

#: Streams of examples: a member's own for training, and one that all members are tested on.
TRAINING, DIAGNOSTIC = 0, 1


@dataclass(frozen=True)
class LengthTask:
    """A task whose examples come in any length.

    ``prompt`` and ``answer`` take lengths as numbers or grids.  Every example is
    ``prompt answer`` with ``[=]`` last in the prompt and ``[eos]`` last in the answer.

    Attributes:
        name: as in the records.
        option: as on the command line.
        summary: description of the task.
        words: random numbers of 32 bits that an example is made of.
        limit: the longest length there is.
        vocabulary: ids needed for lengths up to the longest.
        prompt: tokens of the prompt at a length.
        answer: tokens of the answer at a length.
        write: ``(words, lengths, positions, longest) -> ids``, of grids that broadcast; padding
            beyond the example's end.
    """

    name: str
    option: str
    summary: str
    words: int
    limit: int
    vocabulary: Callable[[int], int]
    prompt: Callable[[Grid], Grid]
    answer: Callable[[Grid], Grid]
    write: Callable[[Sequence[Grid], Grid, Grid, int], Grid]

    def tokens(self, length: Grid) -> Grid:
        """Tokens of a whole example."""
        return self.prompt(length) + self.answer(length)

    def context(self, longest: int) -> int:
        """Positions that the longest example takes as input."""
        return self.tokens(longest) - 1

    def draw(
        self,
        stream: int,
        seed: Grid,
        step: Grid,
        examples: Grid,
        lengths: Grid,
        positions: Grid,
        longest: int,
    ) -> tuple[Grid, Grid]:
        """Examples, and where in the table of positions each of them starts.

        Each is a function of stream, seed, step, its number and its length alone.  It starts
        anywhere where it fits: learned positions beyond the longest training example would
        otherwise never be seen before they are tested.

        Args:
            stream: :data:`TRAINING` or :data:`DIAGNOSTIC`.
            seed: of the member, below 2^32.
            step: of training, below 2^32.
            examples: numbers of the examples, (N, 1).
            lengths: of each, broadcasts with ``examples``.
            positions: within an example, (T,).
            longest: length that numbers and positions suffice for.

        Returns:
            Ids, of the shape that all grids broadcast to, and starts, the same with one position.
        """
        numbers = [
            word
            for counter in range(-(-(self.words + 1) // 4))
            for word in philox((counter, examples, step, 0), (seed, stream))
        ]
        room = self.context(longest) - (self.tokens(lengths) - 1)
        return self.write(numbers[1:], lengths, positions, longest), below(numbers[0], room + 1)


def below(word: Grid, bound: Grid) -> Grid:
    """Uniform numbers in [0, bound) from numbers of 32 bits, bound up to 2^20.

    Multiply-shift: the bias is below bound / 2^32.
    """
    return word * bound >> 32


def training_lengths(examples: int, longest: int) -> NDArray[np.int64]:
    """Length of every example of a training step: 1 to the longest, equally often, ascending.

    They are the same at every step and for every member, so that a step has one shape.

    Args:
        examples: of a step.
        longest: of training.

    Raises:
        ValueError: there are fewer examples than lengths.
    """
    if examples < longest:
        raise ValueError(
            f"batch_size = {examples} is less than train_length = {longest}: "
            "a step has examples of every length"
        )
    return 1 + np.arange(examples) * longest // examples


@dataclass(frozen=True)
class DiagnosticExamples:
    """N fixed examples of one length.

    Attributes:
        tokens: (N, T) int64 ids of whole examples.
        starts: (N,) their first position in the table of positions.
        answer_start: index of the first answer token.
    """

    tokens: NDArray[np.int64]
    starts: NDArray[np.int64]
    answer_start: int


def diagnostic_examples(
    task: LengthTask, length: int, samples: int, longest: int
) -> DiagnosticExamples:
    """The examples of a length that every member is tested on.

    Of lengths that are trained on some may occur in training; of longer ones none can.

    Args:
        task: which.
        length: of each.
        samples: how many.
        longest: length that numbers and positions suffice for.
    """
    numbers = np.arange(samples)[:, None]
    lengths, positions = np.full_like(numbers, length), np.arange(task.tokens(length))
    seed, step = np.zeros_like(numbers), length
    tokens, starts = task.draw(DIAGNOSTIC, seed, step, numbers, lengths, positions, longest)
    return DiagnosticExamples(tokens, starts[:, 0], task.prompt(length))


def check_lengths(task: LengthTask, train: int, tests: Sequence[int]) -> None:
    """Refuse lengths that a task does not have.

    Raises:
        ValueError: names the length and what is possible.
    """
    for length in (train, *tests):
        if not 1 <= length <= task.limit:
            raise ValueError(f"length {length}: {task.option} has lengths from 1 to {task.limit}")
