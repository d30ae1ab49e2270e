"""Tasks of grammatical generalisation: two rules fit what is learned, and tests tell them apart.

After McCoy, Frank and Linzen (2020), "Does syntax need to grow on trees?", and arXiv:2502.17356
(Zhao et al., v5), part on grammatical generalisation.  A sentence is followed by a word that asks
for it again or for it transformed.  Which word of the transformed sentence has which form is, in
training, explained by a linear rule (by the order of words) and by a hierarchical one (by the
subject), unless the mixture says otherwise; in tests they differ.  Grammars, words and shares are
ours, and options.  No torch here.

Sentences of a length are built in a few ways (structures), so that every step of training has
examples of the same lengths, whatever their words.  As in :mod:`geomfast.testbed.tasks.lengths`
the same lines write numpy arrays and torch tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from geomfast.philox import philox
from geomfast.testbed.tasks.lengths import DIAGNOSTIC, EOS, OWN, PAD, Grid, below

PERIOD, QUESTION, COPY, TRANSFORM = OWN, OWN + 1, OWN + 2, OWN + 3
#: The first id that a grammar gives a word.
FIRST_WORD = OWN + 4
_NAMES = {PAD: "[pad]", EOS: "[eos]", PERIOD: ".", QUESTION: "?"}
#: Random numbers of an example before its words: whether it is transformed, whether the rules
#: differ in it, and how it is built.
_CHOICES = 3


@dataclass(frozen=True)
class Structure:
    """One way to build a sentence: what stands at each of its places, by the names of slots.

    Attributes:
        sentence: as it is given.
        transformed: as it is by the hierarchical rule.
        linear: as it is by the linear rule.
    """

    sentence: tuple[str, ...]
    transformed: tuple[str, ...]
    linear: tuple[str, ...]

    @property
    def decisive(self) -> int | None:
        """First place of the transformed sentence that the rules fill differently, if any."""
        pairs = enumerate(zip(self.transformed, self.linear, strict=True))
        return next((place for place, (a, b) in pairs if a != b), None)


@dataclass(frozen=True)
class GrammarExamples:
    """N fixed examples of one length, all transformed.

    Attributes:
        tokens: (N, T) int64 ids of whole examples.
        answer_start: index of the first token of the transformed sentence.
        decisive: (N,) the place, from there on, of the word that tells the rules apart; 0 where
            none does.
        linear: (N,) id of the word that the linear rule puts there.
    """

    tokens: NDArray[np.int64]
    answer_start: int
    decisive: NDArray[np.int64]
    linear: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GrammarTask:
    """A task of transforming sentences; examples are ``sentence . [ask] answer end [eos]``.

    Attributes:
        name: as in the records.
        option: as on the command line.
        summary: description of the task.
        decides: what the word that tells the rules apart is.
        marker: name of the token that asks for the transformed sentence.
        end: id that ends the transformed sentence.
        lexicon: words, by id from :data:`FIRST_WORD`.
        alike: by the number of a sentence's words, structures in which both rules give the same.
        apart: likewise, those in which they differ.
        words: random numbers that ``fill`` takes.
        fill: ids of every slot from as many numbers of 32 bits.
    """

    name: str
    option: str
    summary: str
    decides: str
    marker: str
    end: int
    lexicon: tuple[str, ...]
    alike: Mapping[int, tuple[Structure, ...]]
    apart: Mapping[int, tuple[Structure, ...]]
    words: int
    fill: Callable[[Sequence[Grid]], dict[str, Grid]]

    @property
    def outcomes(self) -> tuple[str, str, str, str]:
        """Names of what is judged, in the records.

        Whole answers to sentences that both rules explain; and of those that tell the rules apart
        the one word that they differ in, as the hierarchical rule has it and as the linear rule
        has it, and whole answers by the hierarchical rule.
        """
        decides, name = self.decides, self.name
        return (
            f"{name} ambiguous",
            f"{name} {decides}",
            f"{name} linear rule",
            f"{name} whole generalization",
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Numbers of words that sentences have."""
        return tuple(self.alike)

    @property
    def vocabulary(self) -> int:
        """Ids that there are."""
        return FIRST_WORD + len(self.lexicon)

    @property
    def context(self) -> int:
        """Positions that the longest example takes as input."""
        return self.tokens(max(self.lengths)) - 1

    def prompt(self, length: int) -> int:
        """Tokens before the answer."""
        return length + 2

    def tokens(self, length: int) -> int:
        """Tokens of a whole example."""
        return 2 * length + 4

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in the order in which places count them."""
        zeros = [np.zeros((1, 1), dtype=np.int64)] * self.words
        return (*self.fill(zeros), "ask", "end", "period", "eos")

    @cache  # noqa: B019 - tasks are module constants
    def places(self, length: int) -> NDArray[np.int64]:
        """(2 structures, T) slots of every token: of each structure copied, then transformed."""
        number = {slot: index for index, slot in enumerate(self.slots)}
        rows = [
            (*s.sentence, "period", "ask", *answer, "end", "eos")
            for s in (*self.alike[length], *self.apart[length])
            for answer in (s.sentence, s.transformed)
        ]
        return np.array([[number[slot] for slot in row] for row in rows], dtype=np.int64)

    def draw(
        self,
        stream: int,
        seed: Grid,
        step: Grid,
        examples: Grid,
        length: int,
        places: Grid,
        *,
        mixture: float,
        embedded: float,
        transformed: float = 0.5,
    ) -> tuple[Grid, Grid, dict[str, Grid]]:
        """Examples of a length, each a function of stream, seed, step and its number alone.

        Args:
            stream: :data:`~geomfast.testbed.tasks.lengths.TRAINING` or ``DIAGNOSTIC``.
            seed: of the member, below 2^32; (C, 1, 1) or a number.
            step: of training, below 2^32.
            examples: numbers of the examples, (N, 1).
            length: words of each sentence.
            places: of :meth:`places`, as array or tensor.
            mixture: share of transformed sentences in which the rules differ.
            embedded: share of copied sentences in which they would.
            transformed: share of transformed sentences.

        Returns:
            Ids (..., N, T), the structure of each (..., N), and the ids of all slots.
        """
        numbers = [
            word
            for counter in range(-(-(self.words + _CHOICES) // 4))
            for word in philox((counter, examples, step, 1), (seed, stream))
        ]
        asked, differs, built = numbers[:_CHOICES]
        asked = 1 * (asked < _share(transformed))
        differs = asked * (differs < _share(mixture)) + (1 - asked) * (differs < _share(embedded))
        same, other = len(self.alike[length]), len(self.apart[length])
        structure = differs * (same + below(built, other)) + (1 - differs) * below(built, same)
        slots = self.fill(numbers[_CHOICES : _CHOICES + self.words])
        nothing = 0 * asked
        slots |= {
            "ask": COPY + asked * (TRANSFORM - COPY),
            "end": PERIOD + asked * (self.end - PERIOD),
            "period": nothing + PERIOD,
            "eos": nothing + EOS,
        }
        at = places[(2 * structure + asked)[..., 0]]
        return _looked_up(slots, at), structure[..., 0], slots

    def diagnostic(self, length: int, samples: int, *, apart: bool) -> GrammarExamples:
        """The examples that every member is tested on, all transformed.

        Args:
            length: words of each sentence.
            samples: how many.
            apart: whether the rules differ in them, or agree.
        """
        numbers = np.arange(samples)[:, None]
        step = np.full_like(numbers, 2 * length + apart)
        tokens, structure, slots = self.draw(
            DIAGNOSTIC,
            np.zeros_like(numbers),
            step,
            numbers,
            length,
            self.places(length),
            mixture=float(apart),
            embedded=0.0,
            transformed=1.0,
        )
        built = (*self.alike[length], *self.apart[length])
        decisive = np.array([built[i].decisive or 0 for i in structure], dtype=np.int64)
        names = [built[i].linear[place] for i, place in zip(structure, decisive, strict=True)]
        linear = [int(slots[name][row, 0]) for row, name in enumerate(names)]
        return GrammarExamples(tokens, self.prompt(length), decisive, np.array(linear))

    def text(self, ids: Sequence[int]) -> str:
        """A readable example."""
        names = _NAMES | {COPY: "[copy]", TRANSFORM: self.marker}
        return " ".join(names.get(int(i)) or self.lexicon[int(i) - FIRST_WORD] for i in ids)


def _share(share: float) -> int:
    """The bound that a number of 32 bits is below in that share of cases."""
    return round(share * 2**32)


def _looked_up(slots: dict[str, Grid], at: Grid) -> Grid:
    """Ids at the places (..., N, T) of slots (..., N, 1) each."""
    values = list(slots.values())
    if isinstance(at, np.ndarray):
        return np.take_along_axis(np.concatenate(np.broadcast_arrays(*values), -1), at, -1)
    whole = values[0].new_empty((*at.shape[:-1], len(values)))
    for index, value in enumerate(values):
        whole[..., index] = value[..., 0]
    return whole.gather(-1, at)


def structure(sentence: str, transformed: str, linear: str | None = None) -> Structure:
    """A structure from its slots as text; without a linear rule of its own both agree."""
    given, made = tuple(sentence.split()), tuple(transformed.split())
    return Structure(given, made, made if linear is None else tuple(linear.split()))
