"""Tasks: right answers, fixed encodings, streams that do not depend on how they are asked."""

import numpy as np
import pytest

from geomfast.testbed.tasks import (
    DIAGNOSTIC_STREAM,
    LEVELS,
    TASK_NAMES,
    TASKS,
    TaskLevel,
    task_levels,
)
from geomfast.testbed.tasks.task import WORDS_PER_EXAMPLE, below
from geomfast.testbed.tasks.vocabulary import CONTEXT, EOS, EQUALS, ID, TOKENS, text

ALL = task_levels(TASK_NAMES, LEVELS)


def spoken(level: TaskLevel, count: int = 300) -> list[tuple[str, str]]:
    """(input, answer) of examples, as text without spaces."""
    drawn = level.examples("test", 0, count)
    split = drawn.answer_start
    return [
        (text(row[1 : split - 1]).replace(" ", ""), text(row[split:-1]).replace(" ", ""))
        for row in drawn.tokens
    ]


def right_answer(task: str, asked: str) -> str:
    """The answer worked out from the written input alone, another way than the task does."""
    if task == "COPY":
        return asked
    if task == "REV":
        return "".join(reversed(asked))
    if task == "SORT":
        return "".join(sorted(asked))
    if task == "PAR":
        return str(asked.count("1") % 2)
    numbers = [int(part) for part in asked.split(",")]
    width = len(asked.split(",")[0])
    if task == "CMP":
        left, right = numbers
        return "<" if left < right else ">" if left > right else "[=]"
    if task == "ADD":
        return str(sum(numbers)).zfill(width + 1)
    if task == "MUL":
        return str(numbers[0] * numbers[1]).zfill(len(asked) - 1)
    a, b, p = numbers
    return str((a + b) % p).zfill(len(str(p)))


@pytest.mark.parametrize("level", ALL, ids=lambda level: level.name)
def test_answers_are_right(level: TaskLevel) -> None:
    for asked, answered in spoken(level):
        assert answered == right_answer(level.task, asked)


@pytest.mark.parametrize("level", ALL, ids=lambda level: level.name)
def test_encoding_has_the_stated_form(level: TaskLevel) -> None:
    drawn = level.examples("test", 0, 64)
    assert drawn.tokens.shape[1] <= CONTEXT
    assert (drawn.tokens[:, 0] == ID[f"[{level.task}]"]).all()
    assert (drawn.tokens[:, drawn.answer_start - 1] == EQUALS).all()
    assert (drawn.tokens[:, -1] == EOS).all()
    assert (drawn.tokens >= 0).all()
    assert (drawn.tokens < len(TOKENS)).all()


@pytest.mark.parametrize("level", ALL, ids=lambda level: level.name)
def test_an_example_does_not_depend_on_the_batch_it_came_in(level: TaskLevel) -> None:
    whole = level.examples("test", 0, 50).tokens
    assert np.array_equal(level.examples("test", 17, 1).tokens[0], whole[17])
    assert np.array_equal(level.examples("test", 30, 20).tokens, whole[30:])


def test_streams_levels_and_tasks_differ() -> None:
    copy, reverse = TaskLevel("COPY", 2), TaskLevel("REV", 2)
    train = copy.examples("train-seed0", 0, 20).tokens
    assert not np.array_equal(train, copy.examples(DIAGNOSTIC_STREAM, 0, 20).tokens)
    assert not np.array_equal(train, copy.examples("train-seed1", 0, 20).tokens)
    assert not np.array_equal(train[:, 1:9], reverse.examples("train-seed0", 0, 20).tokens[:, 1:9])


def test_the_diagnostic_set_never_changes() -> None:
    """Records made by different versions must be comparable: the samples are pinned."""
    drawn = TaskLevel("ADD", 2).examples(DIAGNOSTIC_STREAM, 0, 2).tokens
    assert [text(row) for row in drawn] == PINNED


PINNED = [
    "[ADD] 5 7 , 4 7 [=] 1 0 4 [eos]",
    "[ADD] 1 0 , 6 4 [=] 0 7 4 [eos]",
]


@pytest.mark.parametrize("level", ALL, ids=lambda level: level.name)
def test_chance_is_what_the_best_constant_answer_scores(level: TaskLevel) -> None:
    drawn = level.examples("test", 0, 20_000)
    _, counts = np.unique(drawn.tokens[:, drawn.answer_start :], axis=0, return_counts=True)
    likeliest = counts.max() / 20_000
    # The best constant is picked on the same sample, so small chances read a little high.
    assert likeliest == pytest.approx(level.chance, rel=0.12, abs=2.5e-3)


@pytest.mark.parametrize("bound", [2, 3, 7, 10, 97, 10_000])
def test_integers_are_uniform(bound: int) -> None:
    words = np.random.Philox(key=5).random_raw(200_000)
    drawn = below(words, bound)
    counts = np.bincount(drawn, minlength=bound)
    assert counts.size == bound
    expected = 200_000 / bound
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_squared - (bound - 1)) < 5 * np.sqrt(2 * (bound - 1))


def test_every_task_has_enough_words() -> None:
    assert WORDS_PER_EXAMPLE % 4 == 0
    assert set(TASKS) == set(TASK_NAMES)
