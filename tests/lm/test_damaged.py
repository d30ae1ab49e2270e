"""Damaged files of checkpoints and probes: one line, with the file's name and what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from geomfast.lm.causal_lm import load
from geomfast.lm.hub import CorruptCheckpoint, LoadError
from geomfast.lm.probe_sets import ProbesError, read_probes
from geomfast.series.language_model import _tokens_seen
from tests.lm.language_models import network, tokenizer

LINE = json.dumps({"prompt": "one two", "choices": ["three", "four"], "answer": 0})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "it"
    network("GPTNeoX").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    load(folder)
    return folder


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def not_utf8(file: Path) -> None:
    file.write_bytes(b'{"caf\xe9": 1}')


def a_list(file: Path) -> None:
    file.write_text("[1, 2]")


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def deep(file: Path) -> None:
    file.write_text('{"a": ' + "[" * 100_000)


FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
DAMAGE = (emptied, zeros, cut, not_utf8, a_list, a_folder, deep)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_json_of_a_checkpoint(
    whole: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    assert (folder / name).is_file()
    damage(folder / name)
    with pytest.raises(CorruptCheckpoint) as raised:
        load(folder)
    said = str(raised.value)
    assert name in said and "\n" not in said and len(said) < 600


@pytest.mark.parametrize(
    "field", ["model_type", "hidden_size", "num_hidden_layers", "vocab_size", "rope_parameters"]
)
@pytest.mark.parametrize("value", [None, -3, 0.5, "many", [], {}])
def test_fields_of_a_configuration(whole: Path, tmp_path: Path, field: str, value: Any) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | {field: value}))
    try:
        load(folder)
    except LoadError as error:
        assert "config.json" in str(error) or "model type" in str(error)
        assert "\n" not in str(error)
    else:
        assert field == "rope_parameters"  # of which there are defaults


def test_fewer_blocks_than_there_are_weights_of(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    told = json.loads((folder / "config.json").read_text())
    told["num_hidden_layers"] -= 1
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(CorruptCheckpoint, match=r"weights of gpt_neox\.layers\..*config\.json"):
        load(folder)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_the_trainer_has_written(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    file = tmp_path / "trainer_state.json"
    file.write_text(json.dumps({"num_input_tokens_seen": 12, "global_step": 3}))
    assert _tokens_seen(tmp_path) == 12
    damage(file)
    with pytest.raises(CorruptCheckpoint, match=r"trainer_state\.json"):
        _tokens_seen(tmp_path)


@pytest.mark.parametrize("value", ["-1", "1.5", "1e400", "NaN", '"7"', "[]", "true", "9" * 30])
def test_tokens_that_are_no_number_of_them(tmp_path: Path, value: str) -> None:
    file = tmp_path / "trainer_state.json"
    file.write_text(f'{{"num_input_tokens_seen": {value}}}')
    with pytest.raises(CorruptCheckpoint, match=r"trainer_state\.json.*remove the file"):
        _tokens_seen(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"num_input_tokens_seen": null}'])
def test_tokens_that_nobody_counted(tmp_path: Path, content: str) -> None:
    assert _tokens_seen(tmp_path) is None
    (tmp_path / "trainer_state.json").write_text(content)
    assert _tokens_seen(tmp_path) is None


@pytest.mark.parametrize("damage", [*DAMAGE[:4], a_folder, deep])
def test_probes(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(f"{LINE}\n{LINE}\n")
    assert len(read_probes(file)["mine"].items) == 2
    damage(file)
    for source in (file, tmp_path):
        with pytest.raises(ProbesError, match=r"mine\.jsonl") as raised:
            read_probes(source)
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": None},
        {"prompt": "\ud800"},
        {"choices": None},
        {"choices": [None, "a"]},
        {"choices": ["a", "\udcff"]},
        {"choices": [["a"], ["b"]]},
        {"choices": {"text": None, "label": None}},
        {"choices": {"text": ["a", "b"], "label": None}},
        {"choices": {"text": ["a", "b"], "label": 7}},
        {"answer": None},
        {"answer": -1},
        {"answer": 0.0},
        {"answer": True},
        {"answer": 10**30},
        {"answer": {}},
    ],
)
def test_fields_of_probes(tmp_path: Path, fields: dict[str, Any]) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(f"{LINE}\n{json.dumps(json.loads(LINE) | fields)}\n")
    with pytest.raises(ProbesError, match=r"mine\.jsonl, line 2") as raised:
        read_probes(file)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x1c", "\x0c", "\r"])
def test_texts_with_other_ends_of_lines(tmp_path: Path, separator: str) -> None:
    told = json.loads(LINE) | {"prompt": f"one{separator}two"}
    file = tmp_path / "mine.jsonl"
    text = json.dumps(told, ensure_ascii=False)
    file.write_text(f"{text}\r\n\r\n{LINE}\r\n", encoding="utf-8", newline="")
    items = read_probes(file)["mine"].items
    assert items[0].prompt == f"one{separator}two" and len(items) == 2


def test_a_set_whose_name_no_file_can_have(tmp_path: Path) -> None:
    file = tmp_path / "caf\udce9.jsonl"
    file.write_text(f"{LINE}\n{LINE}\n")
    with pytest.raises(ProbesError, match="rename its file"):
        read_probes(file)
