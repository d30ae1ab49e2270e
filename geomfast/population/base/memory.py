"""Memory that members of a base take, and how many of them are trained together.

A group is held as a whole, so that memory decides its size; of a group's members as many are one
program as a step's activations leave room for.
"""

from __future__ import annotations

from pathlib import Path

from geomfast.population.base.plan import IN_TURN, STACKED_HEAD, Base, BaseSettings
from geomfast.runs.groups import GROUP_SIZE

#: Most bytes of a program, by where it runs; a GPU has room for more.
_MOST_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}
#: Share of the free memory that groups are given, where nothing else is asked for.
_SHARE = 0.5
#: Where the system does not say how much memory is free.
_UNKNOWN = 4 << 30
# Numbers kept for each token and block until the backward pass, in widths.
_KEPT = 40


def held_bytes(base: Base) -> int:
    """Bytes that a member holds from its beginning to its end: weights, gradient, both moments."""
    return 16 * base.trained


def step_bytes(base: Base, settings: BaseSettings) -> int:
    """Bytes that a step of a member takes besides."""
    examples = -(-settings.batch_size // settings.accumulation)
    states = base.longest * _KEPT * base.width * base.tail + base.answer * base.width
    return 4 * examples * (states + 4 * base.answer * base.vocabulary)


def shared_bytes(base: Base) -> int:
    """Bytes that all members of a group share: the base, and the states of its trunk."""
    states = 0
    if base.way == STACKED_HEAD:
        states = 2 * sum(base.rows) * base.answer
    elif base.way != IN_TURN:
        states = sum(base.tokens)
    return 4 * (base.parameters + states * base.width)


def group_size(base: Base, settings: BaseSettings, room: int) -> int:
    """Most members of a group that is to take at most so many bytes; 1 or more."""
    left = room - shared_bytes(base) - step_bytes(base, settings)
    return max(1, min(GROUP_SIZE, left // held_bytes(base)))


def members_per_program(base: Base, settings: BaseSettings, members: int, device: str) -> int:
    """Members that are one program, from 1 to ``members``; programs are of nearly equal size."""
    if base.way == IN_TURN:
        return 1
    kind = device.partition(":")[0]
    each = held_bytes(base) + step_bytes(base, settings)
    fits = max(1, min(members, _MOST_BYTES.get(kind, _MOST_BYTES["cuda"]) // each))
    count = -(-members // fits)
    return -(-members // count)


def free_bytes(device: str, workers: int) -> int:
    """Bytes that a group may take by default: half of what is free, shared by the workers."""
    if device.startswith("cuda"):
        from geomfast.runs.sharing import free_bytes as free

        return int(_SHARE * free("cuda:0" if device == "cuda" else device))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _UNKNOWN
    found = next((line for line in lines if line.startswith("MemAvailable:")), "")
    return int(_SHARE * 1024 * int(found.split()[1]) / workers) if found else _UNKNOWN
