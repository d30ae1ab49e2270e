"""MUL: multiply two numbers; operands and product zero-padded, most significant digit first."""

from geomfast.testbed.tasks.task import Ids, Task, Words, below, digits, joined

WIDTHS = ((1, 1), (2, 1), (2, 2))


def draw(words: Words, level: int) -> tuple[Ids, Ids]:
    first, second = WIDTHS[level - 1]
    left, right = below(words[:, 0], 10**first), below(words[:, 1], 10**second)
    inputs = joined(digits(left, first), digits(right, second))
    return inputs, digits(left * right, first + second)


def chance(level: int) -> float:
    # The likeliest product is 0: one operand or the other is 0.
    first, second = WIDTHS[level - 1]
    return 10.0**-first + 10.0**-second - 10.0 ** -(first + second)


TASK = Task("MUL", "multiply two numbers", ("1x1 digits", "2x1 digits", "2x2 digits"), draw, chance)
