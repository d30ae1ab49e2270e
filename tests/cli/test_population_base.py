"""``geomfast population --base`` as a user meets it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import transformers
from click.testing import CliRunner, Result

from geomfast.cli.main import main
from tests.lm.language_models import CONTEXT, VOCABULARY, save, tokenizer
from tests.population.bases import files
from tests.recorded import values

SMALL = ["--steps", "12", "--batch-size", "4", "--checkpoints", "11", "--threads", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two bases and the files of examples."""
    folder = tmp_path_factory.mktemp("bases")
    save(folder / "small", "GPT2")
    save(folder / "large", "GPTNeoX", width=32)
    files(folder)
    return folder


def arguments(place: Path, out: Path, *more: str, bases: tuple[str, ...] = ("small",)) -> list[str]:
    given = [part for base in bases for part in ("--base", str(place / base))]
    given += ["--train", str(place / "train.jsonl"), "--test", str(place / "words.jsonl")]
    return ["population", str(out), *given, *SMALL, *more]


def call(place: Path, out: Path, *more: str, bases: tuple[str, ...] = ("small",)) -> Result:
    return CliRunner().invoke(main, arguments(place, out, *more, bases=bases))


def test_it_runs_grows_is_reported_on_and_refuses_other_settings(
    place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = call(place, out, "--seeds", "0..2", "--reinit", "head")
    assert first.exit_code == 0, first.output
    said = " ".join(first.output.split())
    assert "small: 960 of 9,024 parameters are trained for every seed, stacked head." in said
    assert "small: its head is tied to the embedding" in said
    assert "words-small-seeds0-2: finished, 3 members, stacked head, 3 at once" in said
    before = values(out)
    grown = call(
        place, out, "--seeds", "0..11", "--reinit", "head", "--json", bases=("small", "large")
    )
    assert grown.exit_code == 0, grown.output
    outcome = json.loads(grown.stdout)
    names = ["words-small-seeds0-2", "words-small-seeds3-11", "words-large-seeds0-11"]
    assert [group["group"] for group in outcome["groups"]] == names
    after = values(out)
    old = after[(after["scale"] == "small") & (after["seed"] < 3)].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, before)
    told = json.loads((out / "settings.json").read_text())
    assert told["settings"]["trained"] == "reinitialised" and told["settings"]["reinit"] == ["head"]
    assert told["recipes"]["small"]["untied"] and not told["recipes"]["large"]["untied"]
    assert told["examples"]["train"] == 30 and told["examples"]["in both"] >= 0
    assert told["success"] == {"words": pytest.approx(2 / 3)}
    assert set(after["settings"]) | set(after["data"]) == set(told["hashes"])
    for more, why in (
        (["--trained", "all"], "trained: reinitialised there, all asked for"),
        (["--reinit", "last-block"], "reinit: head there, last-block asked for"),
        (["--stack", "never"], "way: stacked head there, one after the other asked for"),
    ):
        refused = call(place, out, "--seeds", "0", "--reinit", "head", *more)
        assert refused.exit_code == 2 and why in refused.output, refused.output
    synthetic = CliRunner().invoke(main, ["population", str(out), "--seeds", "0"])
    assert synthetic.exit_code == 2 and "other settings" in synthetic.output
    report = CliRunner().invoke(main, ["report", str(out), "--json"])
    assert report.exit_code == 0, report.output
    (population,) = json.loads(report.stdout)["populations"]
    # By size: small has 9,024 parameters, large more.
    assert [row["scale"] for row in population["summary"]] == ["small", "large"]
    assert (out / "report.html").exists()


def test_bad_usage_says_what_is_possible(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bare = save(tmp_path / "bare", "GPT2", with_tokenizer=False)
    long = {"prompt": " ".join(["cat"] * CONTEXT), "choices": ["red", "blue"], "answer": 0}
    (tmp_path / "long.jsonl").write_text(f"{json.dumps(long)}\n" * 3)
    (tmp_path / "empty.jsonl").write_text("")
    train, test = (["--train", str(place / "train.jsonl")], ["--test", str(place / "words.jsonl")])
    base = ["--base", str(place / "small")]
    for given, said in (
        (["--base", str(bare), *train, *test], "bare has no tokenizer"),
        (["--base", str(place / "nothing"), *train, *test], "no such folder"),
        ([*base, *base, *train, *test], "have one name, small"),
        ([*base, *train], "--base needs --test"),
        ([*base, *train, *test, "--task", "count"], "--task is for geomfast's own tasks"),
        ([*base, *train, *test, "--scales", "1x8"], "--scales is for geomfast's own tasks"),
        (["--reinit", "head"], "--reinit needs --base"),
        (train, "--train needs --base"),
        ([*base, *train, *test, "--reinit", "x"], "no module of GPT2LMHeadModel with weights"),
        ([*base, *train, *test, "--revision", "x"], "has no revision 'x'"),
        ([*base, *train, *test, "--precision", "tf32"], "needs a CUDA device"),
        ([*base, *train, *test, "--precision", "bf16"], "--precision bf16 needs --trained all"),
        ([*base, *train, *test, "--measures", "llc"], "no measure 'llc'"),
        ([*base, *train, *test, "--task-name", "a/b"], "not a plain name"),
        ([*base, *train, "--test", str(tmp_path / "long.jsonl")], "3 probes skipped, longer than"),
        ([*base, *train, "--test", str(tmp_path / "empty.jsonl")], "has 0 probes"),
    ):
        result = CliRunner().invoke(main, ["population", str(out), *given])
        assert result.exit_code == 2, result.output
        assert said in " ".join(result.output.split()), result.output
    assert not (out / "settings.json").exists()


def test_what_is_left_out_is_said(place: Path, tmp_path: Path) -> None:
    lines = (place / "train.jsonl").read_text().splitlines()
    long = {"prompt": " ".join(["cat"] * CONTEXT), "choices": ["red", "blue"], "answer": 0}
    alike = {"prompt": "a cat", "choices": ["wolf", "bear"], "answer": 0}
    test = tmp_path / "words.jsonl"
    test.write_text("\n".join([lines[0], lines[1], json.dumps(long), json.dumps(alike)]) + "\n")
    result = call(place, tmp_path / "out", "--test", str(test), "--seeds", "0", "--task-name", "x")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "2 test examples are also among those to train on." in said
    assert "small: 1 test example is skipped, longer than the context." in said
    assert "small: 1 test example is of two choices with the same tokens" in said
    told = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert told["recipes"]["small"]["skipped"] == [0, 1] and told["examples"]["in both"] == 2
    assert set(values(tmp_path / "out")["task"]) == {"x"}


def test_a_dry_run_writes_nothing_and_memory_makes_groups(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    some = ["--seeds", "0..5", "--memory", "0.0005", "--dry-run"]
    plan = json.loads(call(place, out, *some, "--json").stdout)
    assert not out.exists()
    assert len(plan["runs"]) > 1 and sum(len(row["seed"]) for row in plan["runs"]) == 6
    for row in plan["runs"]:
        assert set(row["seconds"]) == {"training", "writing", "behaviour", "rankme"}
        assert row["memory_bytes"] > 0 and row["disk_bytes"] > 0
    shown = call(place, out, *some)
    assert shown.exit_code == 0, shown.output
    assert f"small: trained in {len(plan['runs'])} groups of at most" in shown.output
    assert "a few steps and a checkpoint timed here" in shown.output


def test_groups_in_worker_processes_come_out_the_same(place: Path, tmp_path: Path) -> None:
    two = {"bases": ("small", "large")}
    assert call(place, tmp_path / "one", "--seeds", "0..2", **two).exit_code == 0
    both = call(place, tmp_path / "two", "--seeds", "0..2", "--workers", "2", "--json", **two)
    assert both.exit_code == 0, both.output
    assert [group["state"] for group in json.loads(both.stdout)["groups"]] == ["finished"] * 2
    pd.testing.assert_frame_equal(values(tmp_path / "two"), values(tmp_path / "one"))


def test_a_group_on_ray_comes_out_the_same(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (geomfast[ray])")
    assert call(place, tmp_path / "local", "--seeds", "0..2").exit_code == 0
    on_ray = call(place, tmp_path / "ray", "--seeds", "0..2", "--engine", "ray")
    assert on_ray.exit_code == 0, on_ray.output
    pd.testing.assert_frame_equal(values(tmp_path / "ray"), values(tmp_path / "local"))


def test_killed_at_any_moment_it_goes_on(place: Path, tmp_path: Path) -> None:
    long = ["--seeds", "0..2", "--steps", "600", "--state-every", "0"]
    assert call(place, tmp_path / "straight", *long).exit_code == 0
    out = tmp_path / "cut"
    command = [sys.executable, "-m", "geomfast.cli.main", *arguments(place, out, *long)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(out.glob("records/*/*.parquet"))) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(300) == -signal.SIGKILL
    assert len(list(out.glob("records/*/*.parquet"))) < 11
    assert call(place, out, *long).exit_code == 0
    pd.testing.assert_frame_equal(values(out), values(tmp_path / "straight"))


def test_chance_is_that_of_what_is_tested(place: Path, tmp_path: Path) -> None:
    words = ["red", "blue", "green", "four"]
    rows = [{"prompt": f"one {w}", "choices": words, "answer": i} for i, w in enumerate(words)]
    rows += [{"prompt": f"two {w}", "choices": words[:2], "answer": 0} for w in words * 3]
    test = tmp_path / "uneven.jsonl"
    test.write_text("\n".join(map(json.dumps, rows)))
    more = ["--test", str(test), "--samples", "4", "--seeds", "0,1", "--reinit", "head"]
    assert call(place, tmp_path / "out", *more).exit_code == 0
    told = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert told["examples"]["chance"] == 0.25 and told["success"] == {"uneven": 0.625}


def test_a_projection_before_the_head_is_refused_while_planning(
    place: Path, tmp_path: Path
) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "ffn_dim": 32}
    config = transformers.OPTConfig(
        vocab_size=VOCABULARY, word_embed_proj_dim=8, max_position_embeddings=CONTEXT, **sizes
    )
    transformers.OPTForCausalLM(config).save_pretrained(tmp_path / "opt")
    tokenizer().save_pretrained(tmp_path / "opt")
    result = call(tmp_path, tmp_path / "out", "--train", str(place / "train.jsonl"), "--test",
                  str(place / "words.jsonl"), bases=("opt",))  # fmt: skip
    assert result.exit_code == 2, result.output
    said = " ".join(result.output.split())
    assert "states of 16 numbers and its head reads 8" in said


def test_a_head_that_follows_a_reinitialised_embedding_is_told(place: Path, tmp_path: Path) -> None:
    more = ["--reinit", "transformer.wte", "--seeds", "0", "--dry-run"]
    result = call(place, tmp_path / "out", *more, "--json")
    assert result.exit_code == 0, result.output
    assert "and so is the head" in " ".join(result.output.split())
