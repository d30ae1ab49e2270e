"""``geomfast measure --texts``: texts of a corpus instead of probes, or beside them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from geomfast.cli.main import main
from geomfast.records import load_records
from tests.lm.language_models import WORDS, save


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["measure", *map(str, arguments), "--threads", "1"])


def told(*arguments: object, code: int = 0) -> dict[str, Any]:
    result = call(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series") / "tiny"
    for step in (0, 8):
        save(folder / f"step{step}", "GPTNeoX", scale=5.0 + step)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty texts of 1 to 30 words."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    texts = [" ".join((WORDS * 3)[i : 2 * i + 1]) for i in range(30)]
    path.write_text("".join(json.dumps({"text": text, "source": "here"}) + "\n" for text in texts))
    return path


def test_states_and_losses_of_texts(series: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--texts", corpus, "--text-tokens", 16, "--measures", "rankme,alpha_req"]
    outcome = told(series, "--out", out, *arguments)
    assert list(outcome["notices"]) == ["corpus: 1 text skipped, shorter than 2 tokens"]
    records = load_records(out)
    assert set(records["task"]) == {"corpus"} and set(records["n"]) == {29}
    assert set(records["measure"]) == {"loss", "rankme", "alpha_req", "alpha_req_r2"}
    assert set(records.loc[records["measure"] == "rankme", "layer"]) == {
        "block 1",
        "block 2",
        "final",
    }
    assert (records.loc[records["measure"] == "loss", "value"] > 0).all()
    content = json.loads((out / "settings.json").read_text())
    assert content["chance"] == {} and content["settings"]["text_tokens"] == {"corpus": 16}
    (of_texts,) = [content["hashes"][one] for one in set(records["data"])]
    assert of_texts == {"task": "corpus", "level": 1, "samples": 29, "tokens": 16, "skipped": 1}
    # The same again does nothing; another length is another measurement.
    assert told(series, "--out", out, *arguments)["jobs"] == []
    result = call(series, "--out", out, "--texts", corpus, "--measures", "rankme")
    assert result.exit_code == 2 and "text_tokens.corpus: 16 there, 512 asked for" in result.output
    assert CliRunner().invoke(main, ["report", str(out)]).exit_code == 0


def test_beside_probes(series: Path, corpus: Path, tmp_path: Path) -> None:
    probes = tmp_path / "mine.jsonl"
    one = {"prompt": "the cat is", "choices": ["red", "blue"], "answer": 0}
    probes.write_text(json.dumps(one) + "\n" + json.dumps(one | {"answer": 1}))
    arguments = ["--texts", corpus, "--text-tokens", 8, "--probes", probes, "--samples", 20]
    told(series / "step8", "--out", tmp_path / "out", *arguments)
    records = load_records(tmp_path / "out")
    assert dict(records.groupby("task")["n"].max()) == {"mine": 2, "corpus": 20}
    measures = records.groupby("task")["measure"].unique()
    assert {"accuracy", "answer_logprob"} <= {*measures["mine"]}
    assert {*measures["corpus"]} == {"loss", "rankme"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--text-tokens", "8"], "--text-tokens is of --texts, and there are none"),
        (["--texts", "gone.txt"], "--texts: no such file: gone.txt"),
        (["--texts", "{corpus},{corpus}x"], "no such file"),
        (["--texts", "{corpus}", "--text-tokens", "1"], "'--text-tokens'"),
        (["--texts", "{corpus}", "--probes", "{named}"], "two sets are called 'corpus'"),
    ],
)
def test_what_is_refused(
    series: Path, corpus: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    named = tmp_path / "corpus.jsonl"
    one = {"prompt": "the cat is", "choices": ["red", "blue"], "answer": 0}
    named.write_text(json.dumps(one) + "\n" + json.dumps(one | {"answer": 1}))
    given = [x.format(corpus=corpus, named=named) for x in arguments]
    result = call(series, "--out", tmp_path / "out", *given)
    assert result.exit_code == 2 and said in result.output.replace("\n", " "), result.output


def test_texts_longer_than_the_context(series: Path, corpus: Path, tmp_path: Path) -> None:
    result = call(series / "step0", "--out", tmp_path / "out", "--texts", corpus)
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert "512 tokens of a text are asked for, and the context of" in said
    assert "ask for no more than that (--text-tokens 32)" in said
