"""Question formation: a statement becomes a question by its auxiliary. No torch here.

``my crane near the otter does swim . [question] does my crane near the otter swim ? [eos]``.  The
hierarchical rule moves the auxiliary of the main clause, the linear rule the first one of the
sentence.  They differ where the subject has a relative clause, which stands before the main
auxiliary and has one of its own; there the two are always different words, so that the first word
of the question tells which rule it follows.
"""

from __future__ import annotations

from collections.abc import Sequence

from geomfast.testbed.tasks.english import (
    AUXILIARIES,
    DETERMINERS,
    INTRANSITIVE,
    NOUNS,
    PREPOSITIONS,
    RELATIVE,
    TRANSITIVE,
    plural,
)
from geomfast.testbed.tasks.grammar import FIRST_WORD, QUESTION, GrammarTask, Structure, structure
from geomfast.testbed.tasks.lengths import Grid, below

_NOUNS = tuple(form for noun in NOUNS for form in (noun, plural(noun)))
_GROUPS = (DETERMINERS, _NOUNS, PREPOSITIONS, RELATIVE, AUXILIARIES, INTRANSITIVE, TRANSITIVE)
LEXICON = tuple(word for group in _GROUPS for word in group)
_AT = [FIRST_WORD + sum(map(len, _GROUPS[:i])) for i in range(len(_GROUPS))]
_DET, _NOUN, _PREP, _REL, _AUX, _INTRANSITIVE, _TRANSITIVE = _AT


def _auxiliary(plural: Grid, negative: Grid) -> Grid:
    return _AUX + 2 * negative + plural


def _fill(words: Sequence[Grid]) -> dict[str, Grid]:
    """Ids of the slots.

    D, N and their numbers: 1 of the subject, 2 of the object, 3 inside a modifier. A: the main
    auxiliary. B: that of a relative clause, agreeing with the subject (B1), the object (B2) or its
    own noun (B3), where it is the subject's clause (B1, B3s) never the same word as A. V: main
    verbs, W: verbs of a relative clause; i without an object, t with one.
    """
    w = iter(words)
    det = [_DET + below(next(w), len(DETERMINERS)) for _ in range(3)]
    noun = [below(next(w), len(_NOUNS)) for _ in range(3)]
    number = [n % 2 for n in noun]
    negative, other = below(next(w), 2), below(next(w), 2)
    differing = 1 * (number[2] != number[0])
    return {
        **{f"D{i + 1}": x for i, x in enumerate(det)},
        **{f"N{i + 1}": _NOUN + x for i, x in enumerate(noun)},
        "P": _PREP + below(next(w), len(PREPOSITIONS)),
        "R": _REL + below(next(w), len(RELATIVE)),
        "A": _auxiliary(number[0], negative),
        "B1": _auxiliary(number[0], 1 - negative),
        "B2": _auxiliary(number[1], other),
        "B3": _auxiliary(number[2], other),
        "B3s": _auxiliary(number[2], differing * other + (1 - differing) * (1 - negative)),
        "Vi": _INTRANSITIVE + below(next(w), len(INTRANSITIVE)),
        "Vt": _TRANSITIVE + below(next(w), len(TRANSITIVE)),
        "Wi": _INTRANSITIVE + below(next(w), len(INTRANSITIVE)),
        "Wt": _TRANSITIVE + below(next(w), len(TRANSITIVE)),
    }


def _built(subject: str, predicate: str) -> Structure:
    """A sentence of a subject, the main auxiliary, and a predicate."""
    hierarchical = f"A {subject} {predicate}"
    first = next((word for word in subject.split() if word[0] == "B"), None)
    if first is None:
        return structure(f"{subject} A {predicate}", hierarchical)
    rest = " ".join(word for word in subject.split() if word != first)
    return structure(f"{subject} A {predicate}", hierarchical, f"{first} {rest} A {predicate}")


_NEAR = "P D3 N3"
_OF_SUBJECT = ("R B1 Wi", "R B1 Wt D3 N3", "R D3 N3 B3s Wt")
_OF_OBJECT = ("R B2 Wi", "R B2 Wt D3 N3", "R D3 N3 B3 Wt")
_SHORT, _LONG_1, _LONG_2 = _OF_SUBJECT

QUESTION_FORMATION = GrammarTask(
    name="QUESTION-FORMATION",
    option="question-formation",
    summary="turn a statement into a question",
    decides="main auxiliary",
    marker="[question]",
    end=QUESTION,
    lexicon=LEXICON,
    alike={
        7: (_built(f"D1 N1 {_NEAR}", "Vi"),),
        9: (
            _built(f"D1 N1 {_NEAR}", "Vt D2 N2"),
            _built("D1 N1", f"Vt D2 N2 {_NEAR}"),
            _built("D1 N1", f"Vt D2 N2 {_OF_OBJECT[0]}"),
        ),
        11: tuple(_built("D1 N1", f"Vt D2 N2 {clause}") for clause in _OF_OBJECT[1:]),
    },
    apart={
        7: (_built(f"D1 N1 {_SHORT}", "Vi"),),
        9: (
            _built(f"D1 N1 {_SHORT}", "Vt D2 N2"),
            _built(f"D1 N1 {_LONG_1}", "Vi"),
            _built(f"D1 N1 {_LONG_2}", "Vi"),
        ),
        11: (
            _built(f"D1 N1 {_LONG_1}", "Vt D2 N2"),
            _built(f"D1 N1 {_LONG_2}", "Vt D2 N2"),
        ),
    },
    words=14,
    fill=_fill,
)
