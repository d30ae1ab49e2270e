"""SORT: sort the digits in ascending order."""

import math

import numpy as np

from geomfast.testbed.tasks.task import Ids, Task, Words, below

LENGTHS = (4, 8, 12)


def draw(words: Words, level: int) -> tuple[Ids, Ids]:
    sequence = below(words[:, : LENGTHS[level - 1]], 10)
    return sequence, np.sort(sequence, axis=1)


def chance(level: int) -> float:
    # The likeliest sorted string spreads its digits as evenly as it can.
    length = LENGTHS[level - 1]
    repeats, extra = divmod(length, 10)
    orders = math.factorial(length) / (
        math.factorial(repeats + 1) ** extra * math.factorial(repeats) ** (10 - extra)
    )
    return orders / 10.0**length


TASK = Task("SORT", "sort the digits", ("4 digits", "8 digits", "12 digits"), draw, chance)
