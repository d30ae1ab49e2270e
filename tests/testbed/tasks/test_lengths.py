"""Length tasks: right answers, one encoding for numpy and torch, streams by place."""

import numpy as np
import pytest
import torch

from geomfast.philox import philox
from geomfast.testbed.tasks import LENGTH_TASKS
from geomfast.testbed.tasks.lengths import (
    DIAGNOSTIC,
    EOS,
    EQUALS,
    OWN,
    PAD,
    TRAINING,
    LengthTask,
    below,
    check_lengths,
    diagnostic_examples,
    training_lengths,
)
from geomfast.testbed.tasks.reverse_add import DIGIT, HINT, LIMIT, PLUS

TASKS = list(LENGTH_TASKS.values())
LONGEST = 12
COUNT, REVERSE_ADD = LENGTH_TASKS["count"], LENGTH_TASKS["reverse-add"]


def rows(task: LengthTask, length: int, samples: int = 200, longest: int = LONGEST) -> list:
    drawn = diagnostic_examples(task, length, samples, longest)
    assert drawn.tokens.shape == (samples, task.tokens(length))
    assert (drawn.tokens[:, drawn.answer_start - 1] == EQUALS).all()
    assert (drawn.tokens[:, -1] == EOS).all()
    assert ((drawn.tokens > PAD) & (drawn.tokens < task.vocabulary(longest))).all()
    return drawn.tokens.tolist()


@pytest.mark.parametrize("length", [1, 2, 7, LONGEST])
def test_counting_is_right(length: int) -> None:
    for a, b, _, *answer in rows(COUNT, length):
        assert answer[:-1] == list(range(a, b + 1))
        assert len(answer) == length + 1
        assert a >= OWN and b < COUNT.vocabulary(LONGEST)


@pytest.mark.parametrize("length", [1, 2, 7, LONGEST, LIMIT])
def test_sums_are_right(length: int) -> None:
    longest = max(LONGEST, length)
    for ids in rows(REVERSE_ADD, length, longest=longest):
        plus, equals = ids.index(PLUS), ids.index(EQUALS)
        numbers = []
        for part in (ids[:plus], ids[plus + 1 : equals], ids[equals + 1 : -1]):
            hints, digits = part[::2], [d - DIGIT for d in part[1::2]]
            assert hints == list(range(hints[0], hints[0] + len(hints)))
            assert hints[0] == ids[0] >= HINT and all(0 <= d <= 9 for d in digits)
            numbers.append((len(digits), int("".join(map(str, digits[::-1])))))
        (_, a), (_, b), (_, c) = numbers
        assert a + b == c
        assert [n for n, _ in numbers] == [length, length, length + 1]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.option)
def test_torch_writes_what_numpy_writes_and_pads_the_rest(task: LengthTask) -> None:
    lengths = np.array([[1], [4], [9]])
    numbers, t = np.arange(3)[:, None], np.arange(task.tokens(9) + 2)
    seed = np.array([5, 2**32 - 1])[:, None, None]
    ids, starts = task.draw(TRAINING, seed, 7, numbers, lengths, t, LONGEST)
    on_torch = (torch.from_numpy(x) for x in (seed, np.array([7]), numbers, lengths, t))
    found = task.draw(TRAINING, *on_torch, LONGEST)
    assert found[0].dtype == torch.int64 and found[0].shape == (2, 3, len(t))
    assert np.array_equal(ids, found[0].numpy()) and np.array_equal(starts, found[1].numpy())
    assert ((ids != PAD) == (t < task.tokens(lengths))).all()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.option)
def test_examples_start_wherever_they_fit(task: LengthTask) -> None:
    for length in (1, 5, LONGEST):
        starts = diagnostic_examples(task, length, 2000, LONGEST).starts
        room = task.context(LONGEST) - (task.tokens(length) - 1)
        assert set(starts.tolist()) == set(range(room + 1))


def test_an_example_depends_on_its_place_alone() -> None:
    t = np.arange(20)
    lengths = np.full((6, 1), 3)

    def drawn(stream: int, seed: int, step: int, numbers: list[int]) -> np.ndarray:
        one = np.array(numbers)[:, None]
        grid = np.full_like(one, seed)
        return COUNT.draw(stream, grid, step, one, lengths[: len(one)], t, 40)[0]

    whole = drawn(TRAINING, 3, 5, [0, 1, 2, 3, 4, 5])
    assert np.array_equal(drawn(TRAINING, 3, 5, [4, 1]), whole[[4, 1]])
    for other in ((DIAGNOSTIC, 3, 5), (TRAINING, 4, 5), (TRAINING, 3, 6)):
        assert not np.array_equal(drawn(*other, [0, 1, 2, 3, 4, 5]), whole)


def test_first_numbers_and_digits_are_uniform() -> None:
    first = np.array(rows(COUNT, 5, 20_000))[:, 0] - OWN
    possible = 2 * LONGEST - 5 + 1
    counts = np.bincount(first, minlength=possible)
    assert len(counts) == possible
    added = np.array(rows(REVERSE_ADD, 8, 5_000))
    digits = added[:, 1:16:2] - DIGIT
    for found in (counts, *(np.bincount(column, minlength=10) for column in digits.T)):
        expected = found.sum() / len(found)
        chi_squared = float(((found - expected) ** 2 / expected).sum())
        assert abs(chi_squared - (len(found) - 1)) < 5 * np.sqrt(2 * (len(found) - 1))


def test_philox_is_the_published_one_on_numpy_arrays() -> None:
    """A vector of Random123's kat_vectors."""
    counter = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    found = philox(tuple(np.array([c]) for c in counter), (0xA4093822, 0x299F31D0))
    assert [int(x[0]) for x in found] == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_bounds_are_kept() -> None:
    words = np.array([0, 1, 2**31, 2**32 - 1])
    assert below(words, 10).tolist() == [0, 0, 5, 9]
    assert below(words, 1).tolist() == [0] * 4


def test_training_lengths_are_equally_frequent() -> None:
    assert np.bincount(training_lengths(12, 4)).tolist() == [0, 3, 3, 3, 3]
    assert np.bincount(training_lengths(14, 4)).min() == 0  # of length 0, and of no other
    assert set(np.bincount(training_lengths(14, 4))[1:].tolist()) == {3, 4}
    with pytest.raises(ValueError, match="batch_size = 3 is less than train_length = 4"):
        training_lengths(3, 4)


def test_the_diagnostic_samples_never_change() -> None:
    """Records made by different versions must be comparable."""
    assert rows(COUNT, 3, 2) == PINNED[0]
    assert rows(REVERSE_ADD, 2, 2) == PINNED[1]


PINNED = [
    [
        [24, 26, 1, 24, 25, 26, 2],
        [21, 23, 1, 21, 22, 23, 2],
    ],
    [
        [15, 4, 16, 13, 3, 15, 10, 16, 12, 1, 15, 10, 16, 11, 17, 5, 2],
        [14, 12, 15, 12, 3, 14, 12, 15, 13, 1, 14, 10, 15, 12, 16, 5, 2],
    ],
]


def test_lengths_that_a_task_does_not_have_are_refused() -> None:
    check_lengths(REVERSE_ADD, 5, [5, LIMIT])
    with pytest.raises(ValueError, match=f"length {LIMIT + 1}: reverse-add"):
        check_lengths(REVERSE_ADD, 5, [LIMIT + 1])
    with pytest.raises(ValueError, match="length 0: count"):
        check_lengths(COUNT, 0, [3])
