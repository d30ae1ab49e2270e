"""Sample files: how many choices, and the probability of the right one; nothing where unsure."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomfast.files import FileError
from geomfast.harness.samples import date_of, read_samples, task_of
from tests.harness.result_files import DATE, lines, sample

HERE = Path(__file__).parent / "results_of_0_4_13"


def drawn(n: int, choices: int, seed: int = 0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [
        sample(i, (-5 * generator.random(choices)).tolist(), int(generator.integers(choices)))
        for i in range(n)
    ]


def test_a_file_of_the_harness() -> None:
    content = (HERE / f"samples_colours_{DATE}.jsonl").read_bytes()
    found = read_samples("colours", content)
    assert found is not None
    shares = []
    for line in content.decode().splitlines():
        one = json.loads(line)
        odds = [math.exp(float(logprob)) for logprob, _ in one["filtered_resps"]]
        shares.append(odds[int(one["target"])] / sum(odds))
    assert (found.n, found.chance) == (24, 0.25)
    assert found.probability == pytest.approx(np.mean(shares), rel=1e-12)
    assert found.stderr == pytest.approx(np.std(shares, ddof=1) / math.sqrt(24), rel=1e-12)


@pytest.mark.parametrize("task", ["words", "gen"])
def test_answers_that_are_no_choices_tell_nothing(task: str) -> None:
    assert read_samples(task, (HERE / f"samples_{task}_{DATE}.jsonl").read_bytes()) is None


def test_questions_of_several_numbers_of_choices() -> None:
    three, five = drawn(10, 3), drawn(30, 5, seed=1)
    both = [*three, *(one | {"doc_id": 100 + i} for i, one in enumerate(five))]
    found = read_samples("t", lines(both))
    assert found is not None and found.chance == pytest.approx((10 / 3 + 30 / 5) / 40)


def test_a_question_counts_once_through_several_filters() -> None:
    own = drawn(20, 4)
    again = read_samples("t", lines([*own, *(one | {"filter": "other"} for one in own)]))
    assert again == read_samples("t", lines(own)) and again is not None and again.n == 20


def test_choices_without_their_question_are_no_choices() -> None:
    """With acc_mutual_info the harness adds every choice once more, without the question."""
    own = drawn(20, 4)
    twice = [
        one | {"filtered_resps": one["filtered_resps"] + [["-0.1", "False"]] * 4} for one in own
    ]
    found = read_samples("t", lines([one | {"acc_mutual_info": 0.0} for one in twice]))
    assert found == read_samples("t", lines(own)) and found is not None and found.chance == 0.25


@pytest.mark.parametrize("accuracy", [0.37, "other"])
def test_probabilities_that_do_not_tell_the_accuracy_are_refused(accuracy: Any) -> None:
    """As in truthfulqa_mc2, where several choices are right and their probabilities are summed."""
    own = drawn(20, 4)
    own[7]["acc"] = 1.0 - own[7]["acc"] if accuracy == "other" else accuracy
    with pytest.raises(FileError, match="line 8: the likeliest choice"):
        read_samples("t", lines(own))


@pytest.mark.parametrize(
    "more",
    [
        {"target": "[0, 2]"},
        {"target": "red"},
        {"target": None},
        {"target": "4"},
        {"target": "-1"},
        {"filtered_resps": [["nan", "False"], ["-1", "False"]]},
        {"filtered_resps": [["-inf", "False"], ["-inf", "False"]]},
        {"filtered_resps": ["red", "blue"]},
        {"filtered_resps": [["-1", "False"]]},
        {"filtered_resps": None},
    ],
)
def test_other_answers_tell_nothing(more: dict[str, Any]) -> None:
    assert read_samples("t", lines([drawn(1, 4)[0] | more])) is None


@pytest.mark.parametrize("line", [b"{", b"[]", b"3", b'{"doc_id": 1}', b'{"doc_id": [1]}'])
def test_what_is_no_sample_is_refused_by_its_line(line: bytes) -> None:
    with pytest.raises(FileError, match="line 2 is no sample"):
        read_samples("t", lines(drawn(1, 2)) + line)


def test_names_of_files() -> None:
    assert task_of(f"a/b/samples_x_y_{DATE}.jsonl") == "x_y"
    assert task_of(f"results_{DATE}.json") is None and task_of("samples_x.jsonl") is None
    assert date_of(f"a/results_{DATE}.json") == date_of(f"samples_t_{DATE}.jsonl") == DATE
    assert date_of("step1000.json") is None
    assert task_of(f"samples_t_{DATE}_{DATE}.jsonl") == f"t_{DATE}"


def test_one_question_has_no_error_and_no_file_has_none() -> None:
    found = read_samples("t", lines(drawn(1, 4)))
    assert found is not None and math.isnan(found.stderr)
    assert read_samples("t", b"\n\n") is None
