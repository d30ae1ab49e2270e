"""Built-in probes are sound; those of users are read, or refused with where and why."""

import collections
import importlib.util
import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

import geomfast
from geomfast.lm import probe_sets
from geomfast.lm.probe_sets import (
    BUILT_IN,
    ProbeItem,
    ProbesError,
    ProbeSet,
    builtin,
    from_dataset,
    read_probes,
)

FOLDER = Path(probe_sets.__file__).parent / "probes"
GOOD = {"prompt": "one two", "choices": ["three", "four"], "answer": 0}


def written(path, *rows):
    path.write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in rows))
    return path


def make():
    spec = importlib.util.spec_from_file_location("make", FOLDER / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The built-in ones


def test_there_are_seven():
    assert tuple(builtin()) == BUILT_IN and len(BUILT_IN) == 7
    assert sorted(path.stem for path in FOLDER.glob("*.jsonl")) == sorted(BUILT_IN)
    assert "Apache-2.0" in (FOLDER / "README.md").read_text()


def test_they_are_installed_with_the_package():
    root = Path(geomfast.__file__).parent
    project = tomllib.loads((root.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["geomfast"]
    shipped = {path for pattern in patterns for path in root.glob(pattern)}
    assert {*FOLDER.glob("*.jsonl"), FOLDER / "README.md"} <= shipped


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_position_is_right_equally_often(name):
    items = builtin()[name].items
    assert 50 <= len(items) <= 60
    counts = collections.defaultdict(collections.Counter)
    for item in items:
        assert 2 <= len(item.choices) <= 4
        counts[len(item.choices)][item.answer] += 1
    for choices, seen in counts.items():
        times = [seen[i] for i in range(choices)]
        assert max(times) - min(times) <= 1, (choices, times)
    # Of the first few, too, which are all that is taken for a small number of samples.
    assert len({item.answer for item in items[:10]}) > 1


def test_no_probe_is_there_twice():
    prompts = [item.prompt for probes in builtin().values() for item in probes.items]
    assert len({prompt.lower() for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize("name", BUILT_IN)
def test_texts_are_clean(name):
    for item in builtin()[name].items:
        for text in (item.prompt, *item.choices):
            assert text == text.strip() and "  " not in text and text.isascii(), text
        # Nothing but the space goes between.
        assert item.continuation(item.answer) == f" {item.choices[item.answer]}"
        assert item.prompt[-1] not in ".?!"


def test_no_choice_is_right_for_its_letters_alone():
    """A reader who always takes the longest or the first in the alphabet gets no further."""
    for probes in builtin().values():
        for rule in (max, min):
            hits = sum(
                item.choices[item.answer] == rule(item.choices, key=lambda x: (len(x), x))
                for item in probes.items
            )
            assert hits / len(probes.items) <= 0.7, (probes.name, rule)


def test_sums_are_right():
    for item in builtin()["arithmetic"].items:
        a, sign, b, _ = item.prompt.split()
        right = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](int(a), int(b))
        assert item.choices[item.answer] == str(right)
        assert all(int(choice) >= 0 for choice in item.choices)


def test_what_is_asked_of_the_context_is_in_it():
    for item in builtin()["in_context"].items:
        words = item.prompt.replace(":", " ").split()
        assert all(choice in words for choice in item.choices)


@pytest.mark.parametrize("name", ["arithmetic", "in_context"])
def test_generated_sets_are_what_their_program_writes(name):
    program = make()
    assert program.lines(getattr(program, name)()) == (FOLDER / f"{name}.jsonl").read_text()


# Reading


def test_names_and_files(tmp_path):
    assert read_probes("builtin") == builtin()
    assert read_probes("facts") == {"facts": builtin()["facts"]}
    file = written(tmp_path / "mine.jsonl", GOOD, "", {**GOOD, "answer": 1, "source": "me"})
    assert read_probes(file) == {
        "mine": ProbeSet(
            "mine",
            (
                ProbeItem("one two", ("three", "four"), 0),
                ProbeItem("one two", ("three", "four"), 1),
            ),
        )
    }
    written(tmp_path / "also.jsonl", GOOD, GOOD)
    assert list(read_probes(tmp_path)) == ["also", "mine"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{nonsense", "Expecting property name"),
        ("[1, 2]", "not an object: \\[1, 2\\]"),
        ({"prompt": "x", "choices": ["a", "b"]}, "no 'answer' among 'prompt', 'choices'"),
        ({**GOOD, "prompt": " "}, "prompt must be a text, not ' '"),
        ({**GOOD, "prompt": 3}, "prompt must be a text, not 3"),
        ({**GOOD, "choices": "three"}, "choices must be a list of texts, not 'three'"),
        ({**GOOD, "choices": ["three"]}, "choices must be two or more"),
        ({**GOOD, "choices": ["three", 4]}, "choices must be texts, not 4"),
        ({**GOOD, "choices": ["three", ""]}, "choices must be texts, not ''"),
        ({**GOOD, "choices": ["three", "three"]}, "must differ"),
        ({**GOOD, "answer": 2}, "answer must be a number from 0 to 1, not 2"),
        ({**GOOD, "answer": -1}, "from 0 to 1, not -1"),
        ({**GOOD, "answer": True}, "from 0 to 1, not True"),
        ({**GOOD, "answer": 1.0}, "from 0 to 1, not 1.0"),
        ({**GOOD, "answer": "five"}, "one of the choices, or one of their labels, not 'five'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, message):
    file = written(tmp_path / "mine.jsonl", GOOD, GOOD, row)
    with pytest.raises(ProbesError, match=rf"mine\.jsonl, line 3: .*{message}"):
        read_probes(file)


def test_files_that_will_not_do(tmp_path):
    with pytest.raises(ProbesError, match=r"no such file: .*gone.jsonl .nor a built-in set; .*fac"):
        read_probes(tmp_path / "gone.jsonl")
    with pytest.raises(ProbesError, match=r"one.jsonl has 1 probes; 2 or more"):
        read_probes(written(tmp_path / "one.jsonl", GOOD))
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProbesError, match=r"bytes.jsonl: .*decode"):
        read_probes(tmp_path / "bytes.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProbesError, match=r"empty holds no \*.jsonl"):
        read_probes(tmp_path / "empty")


def test_white_space_that_is_given_is_kept():
    assert ProbeItem("a", ("b", "c"), 0).continuation(1) == " c"
    assert ProbeItem("a\n", ("b", "c"), 0).continuation(1) == "c"
    assert ProbeItem("a", ("\nb", "\nc"), 0).continuation(1) == "\nc"


# Datasets


def test_columns_of_other_names_and_labels():
    rows = [
        {"q": "x", "o": {"text": ["a", "b"], "label": ["1", "2"]}, "k": "2"},
        {"q": "y", "o": ["a", "b"], "k": "a"},
        {"q": "z", "o": ("a", "b"), "k": 1},
    ]
    found = from_dataset(rows, "exam", prompt="q", choices="o", answer="k")
    assert [item.answer for item in found.items] == [1, 0, 1]
    with pytest.raises(ProbesError, match="exam, row 1: answer must be"):
        from_dataset([GOOD, {**GOOD, "answer": "no"}], "exam")


@pytest.mark.filterwarnings("ignore")  # of the library, at import
def test_datasets_of_the_library(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    saved = datasets.Dataset.from_list([GOOD, {**GOOD, "answer": 1}])
    assert [item.answer for item in from_dataset(saved, "exam").items] == [0, 1]
    saved.save_to_disk(str(tmp_path / "exam"))
    assert [item.answer for item in read_probes(tmp_path / "exam")["exam"].items] == [0, 1]
    asked = []

    def load(*arguments, **options):
        asked.append((*arguments, options["split"]))
        return saved

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(read_probes("dataset:them/exam")) == ["exam"]
    read_probes("dataset:them/exam:easy")
    read_probes("dataset:them/exam::test")
    assert asked == [
        ("them/exam", None, "validation"),
        ("them/exam", "easy", "validation"),
        ("them/exam", None, "test"),
    ]
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: 1 / 0)
    with pytest.raises(ProbesError, match="dataset:them/exam cannot be loaded: division"):
        read_probes("dataset:them/exam")


def test_no_code_of_a_dataset_runs(monkeypatch):
    """Versions of the library that can run it are told not to, so that they do not ask."""
    asked = []

    def older(name, config=None, *, split=None, trust_remote_code=None):
        asked.append(trust_remote_code)
        return [GOOD, GOOD]

    def newer(name, config=None, *, split=None, **more):
        asked.append(more)
        return [GOOD, GOOD]

    for load in (older, newer):
        library = SimpleNamespace(load_dataset=load)
        monkeypatch.setattr(probe_sets, "_datasets", lambda library=library: library)
        assert len(read_probes("dataset:them/exam")["exam"].items) == 2
    assert asked == [False, {}]
