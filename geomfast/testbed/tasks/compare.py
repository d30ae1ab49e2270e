"""CMP: compare two numbers; the answer is one of < = >.

The three answers are drawn equally often: with uniform operands "equal" would almost never
occur at four digits and the chance level would change with the level.
"""

import numpy as np

from geomfast.testbed.tasks.task import Ids, Task, Words, below, digits, joined
from geomfast.testbed.tasks.vocabulary import EQUALS, GREATER, LESS

DIGITS = (1, 2, 4)
ANSWERS = np.array([LESS, EQUALS, GREATER])


def draw(words: Words, level: int) -> tuple[Ids, Ids]:
    width = DIGITS[level - 1]
    bound = 10**width
    answer = below(words[:, 0], 3)
    first = below(words[:, 1], bound)
    # A second number different from the first: skip over it on the circle of residues.
    second = (first + 1 + below(words[:, 2], bound - 1)) % bound
    low, high = np.minimum(first, second), np.maximum(first, second)
    left = np.where(answer == 0, low, np.where(answer == 1, first, high))
    right = np.where(answer == 0, high, np.where(answer == 1, first, low))
    return joined(digits(left, width), digits(right, width)), ANSWERS[answer][:, None]


def chance(level: int) -> float:
    return 1 / 3


TASK = Task("CMP", "compare two numbers", ("1 digit", "2 digits", "4 digits"), draw, chance)
