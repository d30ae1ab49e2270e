"""COUNT: given two numbers, write all from the first to the second. No torch here.

``a b [=] a a+1 ... b [eos]``, one token for a number; the length of an example is how many numbers
are written.  There are twice as many numbers as the longest example has, and every first number
that leaves room is equally likely: all numbers occur in training, however short its examples.
"""

from __future__ import annotations

from collections.abc import Sequence

from geomfast.testbed.tasks.lengths import EOS, EQUALS, OWN, Grid, LengthTask, below


def _numbers(longest: int) -> int:
    return 2 * longest


def write(words: Sequence[Grid], n: Grid, t: Grid, longest: int) -> Grid:
    """See :class:`geomfast.testbed.tasks.lengths.LengthTask`."""
    first = OWN + below(words[0], _numbers(longest) - n + 1)
    answered = (t >= 3) & (t < n + 3)
    return (
        (t == 0) * first
        + (t == 1) * (first + n - 1)
        + (t == 2) * EQUALS
        + answered * (first + t - 3)
        + (t == n + 3) * EOS
    )


COUNT = LengthTask(
    name="COUNT",
    option="count",
    summary="write the numbers from the first to the second",
    words=1,
    limit=1000,
    vocabulary=lambda longest: OWN + _numbers(longest),
    prompt=lambda n: 0 * n + 3,
    answer=lambda n: n + 1,
    write=write,
)
