"""The 24 tokens that the eight tasks of the paper are written in, and those that others add.

24 tokens and 40 positions make 64 rows of embedding, which is what gives the published
parameter counts (nano: 404,992).  A task beyond the eight brings tokens of its own, with ids from
24 up (:class:`~geomfast.testbed.tasks.task.Task`); only models that are trained on it have rows
for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsInt

#: The eight tasks of arXiv:2602.15997, in its order.
PAPER_TASKS = ("COPY", "REV", "SORT", "PAR", "CMP", "ADD", "MUL", "MOD")

TOKENS: tuple[str, ...] = (
    *"0123456789",
    *(f"[{name}]" for name in PAPER_TASKS),
    "[=]",  # ends the input; also CMP's answer "equal"
    "[eos]",
    "[pad]",
    ",",  # between two numbers of an input
    "<",
    ">",
)
ID = {token: index for index, token in enumerate(TOKENS)}

VOCABULARY_SIZE = len(TOKENS)
CONTEXT = 40  # positions; the longest example has 27 tokens
EQUALS, EOS, PAD, COMMA = ID["[=]"], ID["[eos]"], ID["[pad]"], ID[","]
LESS, GREATER = ID["<"], ID[">"]


#: Tokens of tasks beyond the eight, by their ids.
ADDED: dict[int, str] = {}


def text(ids: Iterable[SupportsInt]) -> str:
    """Readable form of a sequence of token ids, padding left out."""
    return " ".join(ADDED.get(int(i)) or TOKENS[int(i)] for i in ids if int(i) != PAD)
