"""PAR: parity of a string of bits."""

from geomfast.testbed.tasks.task import Ids, Task, Words, below

LENGTHS = (4, 8, 12)


def draw(words: Words, level: int) -> tuple[Ids, Ids]:
    bits = below(words[:, : LENGTHS[level - 1]], 2)
    return bits, bits.sum(axis=1, keepdims=True) % 2


def chance(level: int) -> float:
    return 0.5


TASK = Task("PAR", "parity of the bits", ("4 bits", "8 bits", "12 bits"), draw, chance)
