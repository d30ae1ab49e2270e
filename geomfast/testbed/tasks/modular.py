"""MOD: (a + b) mod p.

The modulus is part of the input: p = 23 and p = 97 both have two digits, so without it a pair
below 23 would have two right answers.
"""

import numpy as np

from geomfast.testbed.tasks.task import Ids, Task, Words, below, digits, joined

MODULI = (7, 23, 97)


def draw(words: Words, level: int) -> tuple[Ids, Ids]:
    modulus = MODULI[level - 1]
    width = len(str(modulus))
    left, right = below(words[:, 0], modulus), below(words[:, 1], modulus)
    written = digits(np.full_like(left, modulus), width)
    inputs = joined(digits(left, width), digits(right, width), written)
    return inputs, digits((left + right) % modulus, width)


def chance(level: int) -> float:
    return 1 / MODULI[level - 1]


TASK = Task("MOD", "(a + b) mod p", ("p = 7", "p = 23", "p = 97"), draw, chance)
