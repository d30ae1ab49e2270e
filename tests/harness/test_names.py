"""Which checkpoint a file is of: never another's, and said where that is not told."""

from typing import Any

import pytest

from geomfast.harness.names import Naming, Unnamed, owner_of
from geomfast.harness.results import Results
from geomfast.runs.errors import PlanError

NAMING = Naming()


def file(model: str = "o/pythia-70m", revision: str = "step8", adapter: str = "", name: str = "x"):
    return Results(name, model, revision, adapter, {})


def place(naming: Naming = NAMING, **of: Any) -> tuple[str, str, int, int]:
    found = naming.of(file(**of))
    return found.run, found.scale, found.seed, found.step


@pytest.mark.parametrize(
    ("of", "run", "step"),
    [
        ({}, "pythia-70m", 8),
        ({"revision": "step143000"}, "pythia-70m", 143_000),
        ({"model": "/data/tiny/step4", "revision": ""}, "tiny", 4),
        ({"model": "C:\\data\\tiny\\checkpoint-12", "revision": "main"}, "tiny", 12),
        ({"model": "tiny/step4/", "revision": "step4"}, "tiny", 4),
        ({"adapter": "me/lora/checkpoint-50"}, "lora", 50),
        ({"adapter": "me/lora/checkpoint-50", "revision": ""}, "lora", 50),
        ({"adapter": "checkpoint-50"}, "pythia-70m-adapter", 50),
    ],
)
def test_of_model_revision_folder_and_adapter(of: dict[str, str], run: str, step: int) -> None:
    assert place(NAMING, **of) == (run, run, 0, step)


@pytest.mark.parametrize(
    "of",
    [
        {"revision": "main"},
        {"revision": ""},
        {"revision": "", "model": "step4"},
        # An adapter's weights are not those of the checkpoint that it is put on.
        {"adapter": "me/lora"},
        {"model": "tiny/step4", "revision": "step8"},
        {"revision": "step" + "9" * 20},
    ],
)
def test_what_tells_no_step_or_two_is_refused(of: dict[str, str]) -> None:
    with pytest.raises(Unnamed):
        place(NAMING, **of)


def test_scale_and_seed_of_the_name() -> None:
    naming = Naming("pythia-{scale}-seed{seed}", runs="joint-{scale}-s{seed}")
    assert place(naming, model="o/pythia-1.4b-seed3") == ("joint-1.4b-s3", "1.4b", 3, 8)
    with pytest.raises(Unnamed, match="not named like"):
        place(naming, model="o/pythia-70m")


def test_the_name_of_the_file() -> None:
    naming = Naming(files="{scale}_step{step}.json")
    assert place(naming, revision="", name="a/b/70m_step12.json")[1:] == ("70m", 0, 12)
    with pytest.raises(Unnamed, match="not named like"):
        place(naming, revision="", name="a/b/70m.json")
    with pytest.raises(Unnamed, match="its model is of step 8"):
        place(naming, name="70m_step12.json")
    with pytest.raises(Unnamed, match="its model tells scale 70m"):
        place(Naming("pythia-{scale}", "{scale}_step{step}.json"), name="160m_step8.json")


@pytest.mark.parametrize(
    "how",
    [
        {"models": "pythia"},
        {"models": "{scale}{scale}"},
        {"models": "{scale}-{step}"},
        {"files": "results.json"},
        {"files": "{task}.json"},
        {"runs": "all"},
        {"runs": "{seed}"},
        {"runs": "{scale!r}"},
        {"runs": "x}{scale}"},
        {"runs": "{{scale}}"},
        {"runs": "{scale"},
        {"runs": "{scale}{"},
        {"runs": "{scale.real}"},
    ],
)
def test_patterns_with_other_fields_are_refused(how: dict[str, str]) -> None:
    with pytest.raises(PlanError):
        Naming(**how)


def test_names_are_taken_literally() -> None:
    assert place(Naming("a.{scale}"), model="a.b")[1] == "b"
    with pytest.raises(Unnamed):
        place(Naming("a.{scale}"), model="axb")


@pytest.mark.parametrize(
    ("model", "owner"),
    [
        ("EleutherAI/pythia-70m", "EleutherAI"),
        ("pythia-70m", ""),
        ("/data/pythia-70m", ""),
        ("./pythia-70m", ""),
        ("a/b/c", ""),
        ("tiny/step4", ""),
        ("a\\b", ""),
    ],
)
def test_owner_on_a_hub(model: str, owner: str) -> None:
    assert owner_of(file(model)) == owner


@pytest.mark.parametrize(
    "of",
    [
        {"revision": "step1000.5"},
        {"model": "/data/tiny/step4.5", "revision": ""},
        {"adapter": "me/lora/checkpoint-50.5"},
    ],
)
def test_a_step_that_is_not_whole_is_no_step(of: dict[str, str]) -> None:
    with pytest.raises(Unnamed, match="tells a step that is not whole"):
        place(NAMING, **of)


def test_versions_in_names_are_no_steps() -> None:
    assert place(NAMING, model="o/pythia-v1.1-1.4b")[0] == "pythia-v1.1-1.4b"
