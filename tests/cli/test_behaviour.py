"""``geomfast behaviour`` and its report as a user meets them, on files of the harness itself."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from geomfast.cli.main import main
from geomfast.files import write_json
from geomfast.harness.folder import RECORDS
from geomfast.records import load_records, part_files, write_part
from geomfast.report import figures
from geomfast.report.evaluations import assemble
from tests.analysis.synthetic import join, rows
from tests.harness.result_files import behaviour, new, old, put, told, training
from tests.lm.language_models import save, tokenizer
from tests.report.conftest import judge_few

FIXTURES = Path(__file__).parents[1] / "harness"
STEPS = [0, *(2**i for i in range(10)), *range(1000, 14_001, 1000)]


def report(out: Path, *arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["report", str(out), *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def rise(at: int, low: float, high: float) -> list[float]:
    """A curve over STEPS that rises at one of them."""
    return [low if i < at else high for i in range(len(STEPS))]


def test_a_task_without_accuracy_is_recorded_and_named(tmp_path: Path) -> None:
    scores = {"wikitext": {"perplexity,none": 30.0}, "piqa": 0.6}
    put(tmp_path / "r" / "a.json", new(scores))
    summary = told(tmp_path / "out", tmp_path / "r")
    assert summary["without_accuracy"] == ["wikitext"] and summary["tasks_left_out"] == {}
    frame = load_records(tmp_path / "out" / RECORDS)
    assert frame.set_index("measure")["value"].to_dict() == {"accuracy": 0.6, "perplexity": 30.0}


def test_files_of_the_harness_of_both_formats(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "results_of_0_4_13", tmp_path / "r" / "new")
    shutil.copy(FIXTURES / "results_of_0_3.json", tmp_path / "r" / "old.json")
    out = tmp_path / "out"
    summary = told(out, tmp_path / "r")
    assert summary["runs"] == {
        "pythia-v1.1-70m": {"checkpoints": 1, "last": 3000},
        "tiny-70m": {"checkpoints": 1, "last": 1000},
    }
    assert (summary["files"], summary["tasks"], summary["joined"]) == (2, 8, False)
    assert summary["groups"] == ["everything"] and summary["left_out"] == {}
    assert set(summary["tasks_left_out"]) == {"crows_pairs_english_age"}
    assert summary["chance_unknown"] == [] and summary["error_unknown"] == []
    frame = load_records(out / RECORDS).set_index(["task", "measure"])["value"]
    assert frame["colours", "accuracy"] == 0.375 and frame["colours", "choice_probability"] > 0
    assert frame["piqa", "accuracy"] == 0.5794341675734495
    known = json.loads((out / "behaviour.json").read_text())["tasks"]
    rates = {task: (one["chance"], one["chance_from"], one["n"]) for task, one in known.items()}
    assert rates["colours"] == (0.25, "choices", 24) and rates["gen"] == (0.0, "free answer", 24)
    assert rates["piqa"] == (0.5, "table", 1838)  # as many as its questions are


def test_what_was_done_is_said_and_what_is_next(tmp_path: Path) -> None:
    training(tmp_path / "r", {"arc_easy": [0.3, 0.4], "mine": [0.1, 0.2]}, [0, 100])
    put(tmp_path / "r" / "notes.json", {"a": 1})
    out = tmp_path / "out"
    result = behaviour(out, tmp_path / "r")
    assert result.exit_code == 0, result.output
    said = result.output
    assert "pythia-70m: 2 checkpoints, the last of step 100" in said
    assert "2 files, 2 tasks: 4 values written\n" in said
    assert "Left out, no results of the lm-evaluation-harness" in said and "notes.json" in said
    assert "not known of mine; give it with --chance" in said
    assert said.splitlines()[-1].endswith(f"report {out}")
    again = behaviour(out, tmp_path / "r")
    assert "2 files, 2 tasks: 0 values written, 4 there already" in again.output


def test_more_files_are_added_and_given_rates_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    training(tmp_path / "a", {"mine": [0.3]}, [0])
    training(tmp_path / "b", {"mine": [0.3, 0.5]}, [0, 8])
    assert told(out, tmp_path / "a", "--chance", "m*=0.25")["chance_unknown"] == []
    second = told(out, tmp_path / "b")
    assert (second["written"], second["known"], second["chance_unknown"]) == (1, 1, [])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--chance", "arc_easy"], "TASK=RATE"),
        (["--chance", "arc_easy=1"], "below 1"),
        (["--chance", "arc_easy=nan"], "rate"),
        (["--chance", "arc_esay=0.3"], "no task here has this name"),
        (["--kind", "arc_easy=fact"], "kinds are"),
        (["--kind", "x*=facts"], "no task here has this name"),
        (["--shots", "-1"], "--shots"),
        (["--shots", "5"], "no results"),
        (["--names", "pythia"], "--names"),
        (["--names", "other-{scale}"], "not named like"),
        (["--files", "{step}.json"], "not named like"),
        (["--runs", "x}{scale}"], "--runs"),
        (["--runs", "../{scale}"], "not a name"),
    ],
)
def test_bad_usage_says_what_is_wrong_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], why: str
) -> None:
    training(tmp_path / "r", {"arc_easy": [0.3]}, [0])
    result = behaviour(tmp_path / "out", tmp_path / "r", *arguments)
    assert result.exit_code == 2 and why in result.output
    assert not (tmp_path / "out" / "behaviour.json").exists()


def test_where_nothing_can_be_read_every_reason_is_told(tmp_path: Path) -> None:
    for number in range(7):
        put(tmp_path / "r" / f"{number}.json", new({f"t{number}": {"acc,none": 37.0}}))
    result = behaviour(tmp_path / "out", tmp_path / "r")
    assert result.exit_code == 2 and "t0: acc,none is 37" in result.output
    assert "and 2 more" in result.output and not (tmp_path / "out").exists()
    assert behaviour(tmp_path / "out", tmp_path / "nothing").exit_code == 2


@pytest.mark.parametrize("kind", ["file", "full", "link", "damaged"])
def test_an_out_that_is_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    training(tmp_path / "r", {"arc_easy": [0.3]}, [0])
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("")
    else:
        out.mkdir()
        (out / "x").write_text("")
    if kind == "link":
        (out / "x").unlink()
        (out / "y").symlink_to(tmp_path / "r")
    if kind == "damaged":
        (out / "x").rename(out / "behaviour.json")
    before = sorted(tmp_path.rglob("*"))
    assert behaviour(out, tmp_path / "r").exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.getuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    training(tmp_path / "r", {"arc_easy": [0.3]}, [0])
    (tmp_path / "out").mkdir(mode=0o555)
    result = behaviour(tmp_path / "out", tmp_path / "r")
    assert result.exit_code == 2 and "ermission" in result.output


def test_an_archive_with_patterns_of_names_and_files(tmp_path: Path) -> None:
    for scale in ("70m", "160m"):
        for step in (0, 8):
            value = old({"piqa": 0.5 + step / 100}, model=f"E/pythia-{scale}", step="")
            put(tmp_path / "r" / f"{scale}_step{step}.json", value)
    with tarfile.open(tmp_path / "r.tar.xz", "w:xz") as packed:
        packed.add(tmp_path / "r", "results/of/pythia")
    summary = told(
        tmp_path / "out", tmp_path / "r.tar.xz", "--names", "pythia-{scale}", "--runs",
        "p-{scale}", "--files", "{scale}_step{step}.json",
    )  # fmt: skip
    assert summary["runs"] == {run: {"checkpoints": 2, "last": 8} for run in ("p-160m", "p-70m")}
    assert set(load_records(tmp_path / "out" / RECORDS)["scale"]) == {"70m", "160m"}


def test_what_checkpoints_lack_is_told(tmp_path: Path) -> None:
    training(tmp_path / "r", {"piqa": [0.5, 0.6], "sciq": [0.2, 0.3]}, [0, 1])
    put(tmp_path / "r" / "pythia-70m" / "step1.json", new({"piqa": 0.6}, step=1))
    summary = told(tmp_path / "out", tmp_path / "r")
    assert summary["missing"] == {"pythia-70m, step 1": ["sciq"]}


# Beside geometry


def measured(out: Path, changes: Mapping[str, int], run: str = "pythia-70m") -> None:
    """Records of geometry in which RankMe of every set changes at one of STEPS."""
    generator = np.random.default_rng(1)
    frames = []
    for task, at in changes.items():
        values = np.where(np.arange(len(STEPS)) < at, 5.0, 10.0)
        values += 0.05 * generator.standard_normal(len(STEPS))
        cell = {"task": task, "layer": "final", "scale": "70m", "seed": 4}
        frames.append(rows("rankme", STEPS, values.tolist(), **cell))
    frame = join(*frames).assign(run=run)
    write_part(out / "records" / run / "all.parquet", frame.to_dict("records"))
    write_json(out / "settings.json", {"chance": {}, "preset": "nano"})


RISES = {"blimp": ("syntax", 9), "arc_easy": ("facts", 11), "piqa": ("reasoning", 14)}


def curves() -> dict[str, Sequence[float]]:
    return {
        task: rise(at, 0.5 if task != "arc_easy" else 0.25, 0.8) for task, (_, at) in RISES.items()
    }


@pytest.mark.parametrize("first", ["geometry", "behaviour"])
def test_planted_leads_ties_and_lags_are_in_the_tables(
    tmp_path: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One measure before, one with and one after the rise; whatever was there first."""
    out = tmp_path / "out"
    training(tmp_path / "r", curves(), STEPS)
    ahead = {"blimp": 2, "arc_easy": 0, "piqa": -3}
    changes = {RISES[task][0]: RISES[task][1] - by for task, by in ahead.items()}
    if first == "geometry":
        measured(out, changes)
    assert told(out, tmp_path / "r")["joined"] == (first == "geometry")
    if first == "behaviour":
        measured(out, changes)
    judge_few(monkeypatch)
    for group in ("FIGURES", "OVERVIEW"):
        monkeypatch.setattr(figures, group, ())
    monkeypatch.setattr(assemble, "FIGURES", ())
    printed = json.loads(report(out, "--json").stdout)
    tables = out / "tables" / "behaviour"
    found = pd.read_csv(tables / "leads.csv").set_index(["measure", "task"]).loc["rankme"]
    assert found["outcome"].to_dict() == {"blimp": "lead", "arc_easy": "tie", "piqa": "lag"}
    axis = np.log2(1 + np.array(STEPS) / 8)
    for task, by in ahead.items():
        at = RISES[task][1]
        assert found.loc[task, "emerged"] == STEPS[at]
        assert found.loc[task, "lead"] == pytest.approx(axis[at] - axis[at - by])
    assert set(found["seed"]) == {4} and set(found["scale"]) == {"70m"}
    counts = pd.read_csv(tables / "precursors.csv").set_index("measure").loc["rankme"]
    assert counts[["events", "leads", "ties", "lags"]].tolist() == [3, 1, 1, 1]
    assert (out / "behaviour.html").is_file() and (out / "report.html").is_file()
    assert {one["task"] for one in printed["behaviour"]["rises"]} == set(RISES)


def test_results_of_another_model_do_not_join(tmp_path: Path) -> None:
    out = tmp_path / "out"
    measured(out, {"facts": 9})
    training(tmp_path / "r", {"piqa": [0.5]}, [0], model="o/other")
    result = behaviour(out, tmp_path / "r")
    assert result.exit_code == 2 and "of other, and the folder is of pythia-70m" in result.output
    assert not (out / "behaviour.json").exists()


def test_measuring_and_reading_results_do_not_disturb_each_other(tmp_path: Path) -> None:
    model, out = tmp_path / "tiny", tmp_path / "out"
    for step in (0, 1, 2):
        save(model / f"step{step}", "GPTNeoX", scale=5.0 + step)
        of = str(model / f"step{step}")
        put(tmp_path / "r" / f"{step}.json", new({"piqa": 0.5}, step=None, model=of))

    def measure() -> dict[str, Any]:
        arguments = ["--measures", "rankme", "--probes", "syntax", "--threads", "1", "--json"]
        arguments = ["measure", str(model), "--out", str(out), *arguments]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert told(out, tmp_path / "r")["written"] == 3
    assert measure()["runs"] == {"tiny": 3}
    before = [path.stat().st_mtime_ns for path in part_files(out)]
    assert told(out, tmp_path / "r")["known"] == 3 and measure()["jobs"] == []
    assert [path.stat().st_mtime_ns for path in part_files(out)] == before
    assert "piqa" not in set(load_records(out)["task"])


# The harness itself

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 1.0
"""


def test_what_the_installed_harness_writes_is_read(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    model, tasks = tmp_path / "tiny" / "step8", tmp_path / "tasks"
    save(model, "GPTNeoX", scale=5.0)
    tokenizer(end="[end]").save_pretrained(model)
    tasks.mkdir()
    prompts = ["the cat", "a dog is", "the mat was", "one two"]
    docs = [{"prompt": p, "choices": ["red", "blue", "five"], "answer": i % 3} for i, p in
            enumerate(prompts * 3)]  # fmt: skip
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, docs)))
    (tasks / "colours.yaml").write_text(TASK.format(name="colours", data=tmp_path / "docs.jsonl"))
    options = {
        "--model": "hf",
        "--model_args": f"pretrained={model},dtype=float32",
        "--include_path": tasks,
        "--tasks": "colours",
        "--device": "cpu",
        "--batch_size": 4,
        "--output_path": tmp_path / "r",
    }
    pairs = [str(part) for option in options.items() for part in option]
    # A cache of its own: nothing is written outside, and nothing is looked up.
    home = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *pairs, "--log_samples"],
        env=os.environ | home, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    out = tmp_path / "out"
    summary = told(out, tmp_path / "r")
    assert summary["runs"] == {"tiny": {"checkpoints": 1, "last": 8}}
    assert summary["left_out"] == summary["tasks_left_out"] == {} and summary["missing"] == {}
    task = json.loads((out / "behaviour.json").read_text())["tasks"]["colours"]
    assert (task["n"], task["chance_from"], task["shots"]) == (12, "choices", 0)
    assert task["chance"] == pytest.approx(1 / 3)
    frame = load_records(out / RECORDS).set_index("measure")
    assert set(frame.index) == {"accuracy", "accuracy_by_size", "choice_probability"}
    (results,) = (tmp_path / "r").rglob("results_*.json")
    assert (
        frame.loc["accuracy", "value"]
        == json.loads(results.read_text())["results"]["colours"]["acc,none"]
    )
