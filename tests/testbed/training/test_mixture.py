"""Batches: the right examples, little padding, targets only where answers are."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from geomfast.testbed.tasks import LEVELS, TASK_NAMES, TaskLevel, task_levels
from geomfast.testbed.tasks.vocabulary import EOS, EQUALS, PAD
from geomfast.testbed.training.mixture import IGNORE, Mixture, partition

ALL = task_levels(TASK_NAMES, LEVELS)


def rows(mixture: Mixture, step: int) -> list[tuple[int, ...]]:
    """The unpadded inputs of a step, in a canonical order."""
    batch = mixture.batch(step)
    return sorted(
        tuple(int(i) for i in row if i != PAD) for bucket in batch.buckets for row in bucket.inputs
    )


def test_at_least_90_percent_of_processed_tokens_are_real() -> None:
    mixture = Mixture(ALL, 128, seed=0)
    for step in range(6):
        batch = mixture.batch(step)
        assert sum(b.inputs.shape[0] for b in batch.buckets) == 128
        processed = sum(b.inputs.numel() for b in batch.buckets)
        real = sum(int((b.inputs != PAD).sum()) for b in batch.buckets)
        assert (batch.processed_tokens, batch.real_tokens) == (processed, real)
        assert real >= 0.9 * processed


def test_targets_are_the_next_tokens_of_answers_only() -> None:
    batch = Mixture(ALL, 128, seed=0).batch(3)
    for inputs, targets in batch.buckets:
        for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
            first = next(i for i, t in enumerate(target) if t != IGNORE)
            last = max(i for i, t in enumerate(target) if t != IGNORE)
            assert row[first] == EQUALS
            assert target[last] == EOS
            assert target[first:last] == row[first + 1 : last + 1]
            assert set(target[:first]) <= {IGNORE}


def test_a_batch_is_a_function_of_its_step() -> None:
    straight = Mixture(ALL, 100, seed=2)
    expected = [rows(straight, step) for step in range(70)]
    jumping = Mixture(ALL, 100, seed=2)
    for step in (69, 3, 64, 0, 63):
        assert rows(jumping, step) == expected[step]
    assert rows(Mixture(ALL, 100, seed=3), 0) != expected[0]


def test_the_stream_is_used_once_and_in_order() -> None:
    """Batches of any size walk through the same examples, each exactly once."""
    levels = [TaskLevel("COPY", 1), TaskLevel("REV", 3), TaskLevel("PAR", 2)]
    small, large = Mixture(levels, 10, seed=0), Mixture(levels, 30, seed=0)
    split = sorted(row for step in range(6) for row in rows(small, step))
    whole = sorted(row for step in range(2) for row in rows(large, step))
    assert split == whole


def test_every_level_equally_often() -> None:
    mixture = Mixture(ALL, 120, seed=0)
    tokens = [row[0] for row in rows(mixture, 5)]
    assert all(tokens.count(token) == 15 for token in set(tokens))


def test_a_batch_smaller_than_the_mixture() -> None:
    mixture = Mixture(ALL, 5, seed=0)
    assert [len(rows(mixture, step)) for step in range(10)] == [5] * 10


@pytest.mark.parametrize("seed", range(5))
def test_partition_is_minimal_and_within_its_bound(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = tuple(sorted(generator.integers(4, 40, size=6).tolist()))
    counts = tuple(generator.integers(1, 20, size=6).tolist())
    real = sum(a * b for a, b in zip(lengths, counts, strict=True))

    def padding(ranges: list[tuple[int, int]]) -> float:
        processed = sum(sum(counts[a:b]) * lengths[b - 1] for a, b in ranges)
        return (processed - real) / processed

    chosen = partition(lengths, counts, 0.1)
    assert [a for a, _ in chosen] == [0, *(b for _, b in chosen[:-1])]
    assert chosen[-1][1] == 6
    assert padding(chosen) <= 0.1
    # No split with fewer runs stays within the bound: try them all.
    for cuts in range(2**5):
        edges = [0, *(i + 1 for i in range(5) if cuts >> i & 1), 6]
        ranges = list(pairwise(edges))
        if len(ranges) < len(chosen):
            assert padding(ranges) > 0.1


def test_inputs_are_long_tensors() -> None:
    bucket = Mixture(ALL, 24, seed=0).batch(0).buckets[0]
    assert bucket.inputs.dtype == bucket.targets.dtype == torch.int64
