"""ADD: add two numbers; operands and sum zero-padded, most significant digit first."""

from geomfast.testbed.tasks.task import Ids, Task, Words, below, digits, joined

DIGITS = (1, 2, 3)


def draw(words: Words, level: int) -> tuple[Ids, Ids]:
    width = DIGITS[level - 1]
    left, right = below(words[:, 0], 10**width), below(words[:, 1], 10**width)
    inputs = joined(digits(left, width), digits(right, width))
    return inputs, digits(left + right, width + 1)


def chance(level: int) -> float:
    # The likeliest sum, 10^w - 1, has 10^w of the 10^2w operand pairs.
    return 10.0 ** -DIGITS[level - 1]


TASK = Task("ADD", "add two numbers", ("1 digit", "2 digits", "3 digits"), draw, chance)
