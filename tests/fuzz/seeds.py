"""Seeds of a fuzzer: how many its command line asks for, and what they lead to."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Collection, Iterable

import torch


def asked(name: str, description: str | None) -> range:
    """The seeds that the command line of ``python -m tests.fuzz.NAME`` asks for."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.fuzz.{name}", description=description)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    return range(chosen.first, chosen.first + chosen.count)


def outcomes(
    seeds: Iterable[int],
    tried: Callable[[int], str],
    good: Collection[str],
    say: Callable[[str], object],
) -> Counter[str]:
    """Counts of what the seeds lead to, by its first word; all but the good is said."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        outcome = tried(seed)
        kind = outcome.partition(":")[0].partition(" ")[0]
        counts[kind] += 1
        if kind not in good:
            say(f"seed {seed}: {outcome}\n")
    return counts
