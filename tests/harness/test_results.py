"""Results files of the harness's old and present format, whole and with anything wrong in them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from geomfast.harness.results import NoResult, Results, TaskResult, read_results
from tests.harness.result_files import new, old

HERE = Path(__file__).parent
PRESENT = HERE / "results_of_0_4_13" / "results_2026-11-30T19-07-04.540470.json"


def read(value: Any) -> Results:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_results("file.json", content)


def task(value: Any, name: str = "t") -> TaskResult:
    return read(value).tasks[name]


def scores(result: TaskResult) -> dict[str, tuple[str, float]]:
    return {score.measure: (score.metric, score.value) for score in result.scores}


def edited(**told: Any) -> dict[str, Any]:
    """A results file of one task, with other scores."""
    value = new({"t": 0.5})
    value["results"]["t"] |= {name.replace("__", ","): number for name, number in told.items()}
    return value


def test_a_file_of_the_present_format() -> None:
    found = read(PRESENT.read_bytes())
    assert (found.model, found.revision, found.adapter) == ("someone/tiny-70m", "step1000", "")
    assert found.groups == ("everything",) and found.left_out == {}
    assert set(found.tasks) == {"colours", "words", "gen"}
    colours = found.tasks["colours"]
    assert (colours.n, colours.shots, colours.version, colours.free) == (24, 0, "1", False)
    assert scores(colours) == {
        "accuracy": ("acc,none", 0.375),
        "accuracy_by_size": ("acc_norm,none", 1 / 24),
    }
    assert colours.scores[0].stderr == pytest.approx(math.sqrt(0.375 * 0.625 / 23))
    assert found.tasks["words"].free and found.tasks["gen"].free
    assert scores(found.tasks["words"])["perplexity"][1] == pytest.approx(62.74, abs=0.01)


def test_a_file_of_the_old_format() -> None:
    found = read((HERE / "results_of_0_3.json").read_bytes())
    assert (found.model, found.revision) == ("EleutherAI/pythia-v1.1-70m", "step3000")
    assert set(found.left_out) == {"crows_pairs_english_age"}
    assert found.left_out["crows_pairs_english_age"].startswith("no accuracy, only likelihood")
    piqa = found.tasks["piqa"]
    assert (piqa.n, piqa.shots, piqa.version, piqa.chance) == (0, 0, "0", None)
    assert scores(piqa)["accuracy"] == ("acc", 0.5794341675734495)
    assert scores(found.tasks["lambada_openai"])["perplexity"][0] == "ppl"


def test_of_several_filters_one_is_read_the_strictest_first() -> None:
    gen = read(PRESENT.read_bytes()).tasks["gen"]
    assert scores(gen) == {"accuracy": ("exact_match,strict-match", 0.0)}
    value = new({"t": {"exact_match,zzz": 0.1, "exact_match,custom": 0.2}})
    assert scores(task(value)) == {"accuracy": ("exact_match,custom", 0.2)}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.1, 1.1, 37.5, 10**400])
def test_a_share_out_of_range_is_left_out_by_its_value(number: float) -> None:
    found = read(edited(acc__none=number))
    assert found.tasks == {} and found.left_out["t"].startswith("acc,none is ")


@pytest.mark.parametrize("text", [True, "0.5", None, [0.5], {"value": 0.5}, "N/A"])
def test_what_is_no_number_is_no_accuracy(text: Any) -> None:
    assert read(edited(acc__none=text)).left_out == {"t": "no accuracy, only texts"}


def test_another_number_out_of_range_leaves_the_accuracy() -> None:
    found = read(edited(perplexity__none=math.inf))
    assert scores(found.tasks["t"]) == {"accuracy": ("acc,none", 0.5)}
    assert found.left_out == {"t": "perplexity,none is inf"}


@pytest.mark.parametrize("error", ["N/A", None, math.nan, -0.1, math.inf, True, 0.0])
def test_an_error_that_is_none_is_unknown(error: Any) -> None:
    """Nor has a share between 0 and 1 an error of 0."""
    assert math.isnan(task(edited(acc_stderr__none=error)).scores[0].stderr)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_none_or_all_right_has_an_error_of_zero(value: float) -> None:
    assert task(new({"t": value})).scores[0].stderr == 0.0


@pytest.mark.parametrize("n", [10**30, -1, 0, True, 4.5, "400", None])
def test_a_number_of_samples_that_is_none_is_unknown(n: Any) -> None:
    value = new({"t": 0.5})
    value["n-samples"]["t"]["effective"] = n
    assert task(value).n == 0


def test_every_aggregate_is_a_group() -> None:
    below = {"all": ["some"], "some": ["t"], "t": []}
    value = new({"t": 0.5, "some": 0.5, "all": 0.5}, groups=below) | {"groups": {"more": {}}}
    found = read(value)
    assert set(found.tasks) == {"t"} and found.groups == ("all", "more", "some")


def test_number_of_choices_of_the_task_itself() -> None:
    assert task(new({"t": 0.5}, choices=4)).chance == 0.25
    value = new({"t": 0.5}, choices=4)
    value["configs"]["t"]["doc_to_choice"] = "{{choices}}"
    assert task(value).chance is None


@pytest.mark.parametrize(("told", "version"), [(1.0, "1"), (1, "1"), ("1.0", "1"), (0, "0")])
def test_versions_that_are_written_in_several_ways(told: Any, version: str) -> None:
    value = new({"t": 0.5})
    value["versions"]["t"] = told
    assert task(value).version == version


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b'{"results": {"t": {"acc": 1' + b"0" * 5000 + b"}}}", "no JSON"),
        (b"[1, 2]", "no object 'results'"),
        (b'{"results": [1]}', "no object 'results'"),
        (b'{"results": {}}', "names no model"),
        (b'{"results": {}, "config": {"model_args": "revision=step1"}}', "names no model"),
        (b'{"results": {}, "model_name": "a\\u001bb"}', "control characters"),
        (b'{"results": {}, "model_name": "' + b"a" * 5000 + b'"}', "characters"),
    ],
)
def test_what_is_no_results_file_says_why(content: bytes, why: str) -> None:
    with pytest.raises(NoResult, match=why):
        read(content)


def test_names_of_tasks_are_one_line_without_control_characters() -> None:
    found = read(new({"a\nb\x1b[31m\tc": 0.5, "\ud800": 0.5, "a" * 400: 0.5}))
    assert set(found.tasks) == {"a\\nb\\x1b[31m\\tc", "\\ud800", "a" * 300}


def test_arguments_as_text_and_as_an_object_are_the_same() -> None:
    one, other = read(old({"t": 0.5}, step=7)), read(new({"t": 0.5}, step=7))
    assert (one.model, one.revision) == (other.model, other.revision)
    assert read(new({"t": 0.5}, peft="me/lora")).adapter == "me/lora"
