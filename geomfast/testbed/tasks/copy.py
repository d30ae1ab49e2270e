"""COPY: repeat the digits."""

from geomfast.testbed.tasks.task import Ids, Task, Words, below

LENGTHS = (4, 8, 12)


def draw(words: Words, level: int) -> tuple[Ids, Ids]:
    sequence = below(words[:, : LENGTHS[level - 1]], 10)
    return sequence, sequence


def chance(level: int) -> float:
    return 10.0 ** -LENGTHS[level - 1]


TASK = Task("COPY", "repeat the digits", ("4 digits", "8 digits", "12 digits"), draw, chance)
