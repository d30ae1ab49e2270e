"""Tense inflection: a sentence in the past tense is put into the present. No torch here.

``my crane near the otters swam . [present] my crane near the otters swims . [eos]``.  By the
hierarchical rule a verb agrees with its subject, by the linear rule with the noun most recently
mentioned.  They differ where a noun of the other number stands between the subject and the main
verb.
"""

from __future__ import annotations

from collections.abc import Sequence

from geomfast.testbed.tasks.english import (
    DETERMINERS,
    INTRANSITIVE,
    NOUNS,
    PREPOSITIONS,
    RELATIVE,
    TRANSITIVE,
    past,
    plural,
    present,
)
from geomfast.testbed.tasks.grammar import FIRST_WORD, PERIOD, GrammarTask, Structure, structure
from geomfast.testbed.tasks.lengths import Grid, below


def _forms(verb: str) -> tuple[str, str, str]:
    return present(verb, singular=True), present(verb, singular=False), past(verb)


_NOUNS = tuple(form for noun in NOUNS for form in (noun, plural(noun)))
_VERBS = [tuple(f for verb in verbs for f in _forms(verb)) for verbs in (INTRANSITIVE, TRANSITIVE)]
_GROUPS = (DETERMINERS, _NOUNS, PREPOSITIONS, RELATIVE, *_VERBS)
LEXICON = tuple(word for group in _GROUPS for word in group)
_AT = [FIRST_WORD + sum(map(len, _GROUPS[:i])) for i in range(len(_GROUPS))]
_DET, _NOUN, _PREP, _REL, _INTRANSITIVE, _TRANSITIVE = _AT


def _fill(words: Sequence[Grid]) -> dict[str, Grid]:
    """Ids of the slots.

    D, N: 1 of the subject, 2 of the object, 3 inside a modifier: N3 of any number, N3s of the
    subject's, N3d of the other. V: main verbs, W: verbs of a relative clause; i without an object,
    t with one; alone in the past tense, then in the present: 1, 2, 3 agreeing with that noun, d
    with a noun whose number the subject does not have.
    """
    w = iter(words)
    det = [_DET + below(next(w), len(DETERMINERS)) for _ in range(3)]
    noun = [below(next(w), len(NOUNS)) for _ in range(3)]
    number = [below(next(w), 2) for _ in range(3)]
    verbs = {
        "Vi": _INTRANSITIVE + 3 * below(next(w), len(INTRANSITIVE)),
        "Vt": _TRANSITIVE + 3 * below(next(w), len(TRANSITIVE)),
        "Wt": _TRANSITIVE + 3 * below(next(w), len(TRANSITIVE)),
    }
    agreeing = {"1": number[0], "2": number[1], "3": number[2], "d": 1 - number[0]}
    forms = {f"{v}{n}": id_ + plural for v, id_ in verbs.items() for n, plural in agreeing.items()}
    return {
        **{f"D{i + 1}": x for i, x in enumerate(det)},
        **{f"N{i + 1}": _NOUN + 2 * noun[i] + number[i] for i in range(3)},
        "N3s": _NOUN + 2 * noun[2] + number[0],
        "N3d": _NOUN + 2 * noun[2] + 1 - number[0],
        "P": _PREP + below(next(w), len(PREPOSITIONS)),
        "R": _REL + below(next(w), len(RELATIVE)),
        **{v: id_ + 2 for v, id_ in verbs.items()},
        **forms,
    }


def _built(subject: str, verb: str, rest: str = "", *, apart: bool = False) -> Structure:
    """A sentence from its parts, in which verbs have the number that they agree with."""
    sentence = f"{subject} {verb} {rest}".split()
    given = [word[:2] if word[0] in "VW" else word for word in sentence]
    made = " ".join(sentence)
    linear = made.replace(f"{verb} ", f"{verb[:2]}d ") if rest else f"{made[:-1]}d"
    return structure(" ".join(given), made, linear if apart else None)


def _subjects(length: int, *, apart: bool) -> tuple[str, ...]:
    """Subjects with a modifier of that many words."""
    noun, agrees = ("N3d", "d") if apart else ("N3s", "1")
    if length == 3:
        return (f"D1 N1 P D3 {noun}",)
    return f"D1 N1 R Wt1 D3 {noun}", f"D1 N1 R D3 {noun} Wt{agrees}"


def _with_subjects(length: int, verb: str, rest: str = "", *, apart: bool = False):
    return tuple(_built(s, verb, rest, apart=apart) for s in _subjects(length, apart=apart))


_OBJECTS = {3: ("P D3 N3",), 4: ("R Wt2 D3 N3", "R D3 N3 Wt3")}


def _with_objects(length: int) -> tuple[Structure, ...]:
    return tuple(_built("D1 N1", "Vt1", f"D2 N2 {rest}") for rest in _OBJECTS[length])


TENSE_INFLECTION = GrammarTask(
    name="TENSE-INFLECTION",
    option="tense-inflection",
    summary="put a sentence of the past tense into the present",
    decides="main verb",
    marker="[present]",
    end=PERIOD,
    lexicon=LEXICON,
    alike={
        6: _with_subjects(3, "Vi1"),
        7: _with_subjects(4, "Vi1"),
        8: (*_with_subjects(3, "Vt1", "D2 N2"), *_with_objects(3)),
        9: (*_with_subjects(4, "Vt1", "D2 N2"), *_with_objects(4)),
    },
    apart={
        6: _with_subjects(3, "Vi1", apart=True),
        7: _with_subjects(4, "Vi1", apart=True),
        8: _with_subjects(3, "Vt1", "D2 N2", apart=True),
        9: _with_subjects(4, "Vt1", "D2 N2", apart=True),
    },
    words=14,
    fill=_fill,
)
