"""Members of one scale that are trained, saved and resumed together. Does not import torch.

A group never changes, so that it can be resumed; seeds added later form groups of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

#: Largest number of members in a group; they are saved together.
GROUP_SIZE = 64
MemberT = TypeVar("MemberT")


@dataclass(frozen=True)
class Group:
    """A group of a population.

    Attributes:
        name: of its folders.
        scale: name of the scale.
        seeds: of its members.
        members_per_program: how many of them are one program.
    """

    name: str
    scale: str
    seeds: tuple[int, ...]
    members_per_program: int


def parts(members: Sequence[MemberT], most: int = GROUP_SIZE) -> list[Sequence[MemberT]]:
    """Groups of nearly equal size, at most ``most``."""
    count = -(-len(members) // most)
    cuts = [len(members) * i // count for i in range(count + 1)] if count else [0]
    return [members[a:b] for a, b in pairwise(cuts)]
