"""Examples of multiple choice: files that are refused, rows and places, and their order."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geomfast.lm.probe_sets import ProbeSet
from geomfast.population.base.examples import (
    Order,
    alike,
    content_hash,
    encoded,
    in_both,
    read_examples,
    scored_rows,
    train_rows,
)
from geomfast.runs.errors import PlanError
from tests.lm.language_models import CONTEXT, language_model
from tests.population.bases import TEST, TRAIN, write_examples

RIGHT = {"prompt": "the cat", "choices": ["red", "blue"], "answer": 0}


def test_answers_are_an_index_or_a_text(tmp_path: Path) -> None:
    found = read_examples(write_examples(tmp_path / "any.jsonl", TRAIN))
    assert found.name == "any" and found.items == TRAIN.items
    assert content_hash(found) == content_hash(TRAIN) != content_hash(TEST)
    assert in_both(TRAIN, TEST) == len(
        {(i.prompt, i.answer) for i in TRAIN.items} & {(i.prompt, i.answer) for i in TEST.items}
    )
    twice = ProbeSet("both", (TRAIN.items[0], TEST.items[0]))
    assert in_both(TRAIN, twice) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "green"}, "line 1: answer must be"),
        ({"answer": 2}, "line 1: answer must be a number from 0 to 1"),
        ({"choices": ["red", "red"]}, "must differ"),
        ({"choices": ["red", " red"]}, "example 1: two choices have one text"),
        ({"choices": ["red"]}, "two or more"),
        ({"prompt": ""}, "prompt must be a text"),
    ],
)
def test_lines_that_are_no_example_are_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ({**RIGHT, **change}, RIGHT)))
    with pytest.raises(PlanError, match=said):
        read_examples(path)


def test_files_that_are_empty_or_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such file"):
        read_examples(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text("\n")
    with pytest.raises(PlanError, match="has 0 probes"):
        read_examples(tmp_path / "x.jsonl")
    with pytest.raises(PlanError, match="no such file"):
        read_examples(Path("facts"))  # the name of a built-in probe set


def test_examples_longer_than_the_context_are_left_out(tmp_path: Path) -> None:
    long = {**RIGHT, "prompt": " ".join(["cat"] * CONTEXT)}
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (RIGHT, long, RIGHT)))
    found = encoded(language_model(), read_examples(path))
    assert (len(found), found.skipped) == (2, 1)


def test_choices_with_the_same_tokens_are_counted(tmp_path: Path) -> None:
    unknown = {**RIGHT, "choices": ["wolf", "bear", "red"]}
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (RIGHT, unknown)))
    assert alike(encoded(language_model(), read_examples(path))) == 1


def test_rows_hold_all_that_predicts_answers() -> None:
    lm = language_model()
    found = encoded(lm, TRAIN)
    rows = train_rows(found)
    for i, choice in enumerate(found.right):
        count = len(choice.tokens) - choice.start
        assert rows.tokens[i] == choice.tokens[:-1]
        at = rows.at[i, :count].tolist()
        assert [*rows.tokens[i], choice.tokens[-1]][at[0] + 1 :] == rows.targets[i, :count].tolist()
        assert float(rows.weights[i].sum()) == pytest.approx(1.0)
        assert (rows.weights[i, count:] == 0).all()
    scored = scored_rows(encoded(lm, TEST))
    # Of "red", "blue" and "four five" two rows: that of the prompt, and one with "four".
    assert len(scored) <= 2 * len(TEST.items)
    assert torch.equal(scored.lengths, scored.lengths.sort().values)
    assert len(scored.cells) == 4 * len(TEST.items) and len(scored.firsts) == len(TEST.items)


def test_every_seed_goes_through_all_examples_in_its_own_order() -> None:
    order = Order(10, 4, 50)
    drawn = np.concatenate([order.draw(3, step) for step in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()
    assert drawn.tolist() != np.concatenate([order.draw(4, step) for step in range(5)]).tolist()
    assert order.tokens_until(5) == 100
