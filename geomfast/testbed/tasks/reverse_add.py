"""REVADD: add two numbers, least significant digit first, with index hints. No torch here.

``h0 a0 h1 a1 ... + h0 b0 h1 b1 ... [=] h0 s0 h1 s1 ... [eos]``: before every digit stands a hint
that names its place, the same in both numbers and in their sum, as in Zhou et al. (2023),
arXiv:2310.16028.  Both numbers have n digits, the length of the example, leading zeros included;
their sum has n + 1.  Hints are consecutive and begin anywhere in their alphabet, so that all of
them occur in training, however short its examples.
"""

from __future__ import annotations

from collections.abc import Sequence

from geomfast.testbed.tasks.lengths import EOS, EQUALS, OWN, Grid, LengthTask, below

PLUS, DIGIT, HINT = OWN, OWN + 1, OWN + 11
#: Digits made of one random number; with more, some would be likelier by a visible amount.
_DIGITS = 6
_WORDS = 3
#: Longest numbers whose sum is certain to be an int64.
LIMIT = _DIGITS * _WORDS - 1


def _hints(longest: int) -> int:
    return longest + 1


def _number(words: Sequence[Grid], n: Grid) -> Grid:
    """Uniform in [0, 10^n)."""
    whole = sum(below(word, 10**_DIGITS) * 10 ** (_DIGITS * i) for i, word in enumerate(words))
    return whole % 10**n


def write(words: Sequence[Grid], n: Grid, t: Grid, longest: int) -> Grid:
    """See :class:`geomfast.testbed.tasks.lengths.LengthTask`."""
    a = _number(words[1 : 1 + _WORDS], n)
    b = _number(words[1 + _WORDS : 1 + 2 * _WORDS], n)
    first_hint = below(words[0], _hints(longest) - n)
    in_a = t < 2 * n
    in_b = (t > 2 * n) & (t <= 4 * n)
    in_sum = (t > 4 * n + 1) & (t < 6 * n + 4)
    # Twice the place of the digit, one more where it is the digit itself and not its hint.
    at = in_a * t + in_b * (t - 2 * n - 1) + in_sum * (t - 4 * n - 2)
    place, is_digit = at // 2, at % 2
    digit = (in_a * a + in_b * b + in_sum * (a + b)) // 10**place % 10
    written = (in_a | in_b | in_sum) * (
        is_digit * (DIGIT + digit) + (1 - is_digit) * (HINT + first_hint + place)
    )
    return written + (t == 2 * n) * PLUS + (t == 4 * n + 1) * EQUALS + (t == 6 * n + 4) * EOS


REVERSE_ADD = LengthTask(
    name="REVADD",
    option="reverse-add",
    summary="add two numbers, least significant digit first, every digit after a hint of its place",
    words=1 + 2 * _WORDS,
    limit=LIMIT,
    vocabulary=lambda longest: HINT + _hints(longest),
    prompt=lambda n: 4 * n + 2,
    answer=lambda n: 2 * n + 3,
    write=write,
)
