"""What is known of tasks, and what is given comes first."""

import math

import pytest

from geomfast.harness.tasks import KINDS, fitting, given, known
from geomfast.lm.probe_sets import BUILT_IN


@pytest.mark.parametrize(
    ("task", "chance", "kind", "collection"),
    [
        ("hendrycksTest-anatomy", 0.25, "facts", "MMLU"),
        ("mmlu_professional_law", 0.25, "facts", "MMLU"),
        ("mmlu_us_foreign_policy", 0.25, "facts", "MMLU"),
        ("mmlu_abstract_algebra", 0.25, "arithmetic", "MMLU"),
        ("arc_challenge", 0.25, "reasoning", ""),
        ("winogrande", 0.5, "semantics", ""),
        ("blimp_anaphor_gender_agreement", 0.5, "syntax", "BLiMP"),
        ("lambada_openai", 0.0, "general", ""),
    ],
)
def test_tasks_in_the_table(task: str, chance: float, kind: str, collection: str) -> None:
    found = known(task)
    assert (found.chance, found.kind, found.collection) == (chance, kind, collection)
    assert (found.source, found.kind_source) == ("table", "table")


OTHERS = ["mmlu_pro", "mmlu_pro_law", "mmlu_prox_de_law", "mmlu_anatomy_generative"]
OTHERS += ["mmlu_redux_anatomy", "mmlu_de_llama_anatomy", "truthfulqa_mc1", "xarc_challenge", "t"]


@pytest.mark.parametrize("task", OTHERS)
def test_others_have_no_chance_by_their_name(task: str) -> None:
    """Those of ten choices, for one."""
    assert math.isnan(known(task).chance) and known(task).collection == ""


def test_what_is_given_comes_before_choices_and_these_before_the_table() -> None:
    assert known("piqa", 0.25, True, chances={"p*": 0.1}).chance == 0.1
    assert known("piqa", 0.25, True)[:2] == (0.25, "choices")
    # Among two choices a guess is right every other time, however it is written.
    assert known("piqa", None, True)[:2] == (0.5, "table")
    assert known("mine", None, True)[:2] == (0.0, "free answer")
    assert math.isnan(known("bbh_cot_fewshot_navigate", None, True).chance)
    assert known("piqa", kinds={"*": "syntax"})[2:] == ("syntax", "", "given")


def test_a_name_comes_before_patterns_and_these_in_their_order() -> None:
    values = {"*": 1, "a*c": 2, "abc": 3}
    assert [given(task, values) for task in ("abc", "axc")] == [3, 1]
    assert given("x", {"y*": 1}) is None
    assert fitting("a.*", ["a.b", "axb"]) == ["a.b"] and fitting("*", ["a\nb"]) == ["a\nb"]


def test_kinds_are_the_probe_sets() -> None:
    assert set(KINDS) == set(BUILT_IN)
