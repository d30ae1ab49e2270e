"""The 24 tokens every task is written in.

24 tokens and 40 positions make 64 rows of embedding, which is what gives the published
parameter counts (nano: 404,992).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsInt

TASK_NAMES = ("COPY", "REV", "SORT", "PAR", "CMP", "ADD", "MUL", "MOD")

TOKENS: tuple[str, ...] = (
    *"0123456789",
    *(f"[{name}]" for name in TASK_NAMES),
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


def text(ids: Iterable[SupportsInt]) -> str:
    """Readable form of a sequence of token ids, padding left out."""
    return " ".join(TOKENS[int(i)] for i in ids if int(i) != PAD)
