"""``geomfast measure`` as a user meets it: folders, sweeps and a hub, killed, stopped, damaged."""

import gc
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

from geomfast.cli.main import main
from geomfast.files import read_sealed, write_sealed
from geomfast.measures.model.states import find_blocks
from geomfast.records import load_records
from geomfast.report import figures
from geomfast.report.data import read
from geomfast.runs.failures import mark_failed
from geomfast.series.language_model import OpenedModel
from tests.lm.hub_stand_in import MODEL, stand_in
from tests.lm.language_models import WORDS, save
from tests.recorded import values

STEPS = (0, 1, 2, 4, 8, 16, 32, 128, 256, 512)
FIVE = "rankme,fisher_rank,gradient_covariance_rank,hessian_top,llc"
CHEAP = ["--llc-chains", "1", "--llc-draws", "4", "--llc-burn-in", "1", "--threads", "1"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["measure", *map(str, arguments)])


def told(*arguments: object, code: int = 0) -> dict[str, Any]:
    result = call(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten checkpoints of a tiny GPTNeoX."""
    folder = tmp_path_factory.mktemp("series") / "tiny"
    for step in STEPS:
        # A larger scale is a model that is surer of itself.
        save(folder / f"step{step}", "GPTNeoX", scale=5.0 + step / 200)
    return folder


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two probe sets, of five and of six."""
    folder = tmp_path_factory.mktemp("probes")
    for name, start, count in (("colours", 0, 5), ("counting", 7, 6)):
        lines = []
        for index in range(count):
            words = [WORDS[(start + 3 * index + k) % len(WORDS)] for k in range(5)]
            item = {"prompt": " ".join(words[:3]), "choices": words[3:], "answer": index % 2}
            lines.append(json.dumps(item))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return ",".join(str(path) for path in sorted(folder.iterdir()))


@pytest.fixture(scope="module")
def measured(series: Path, probes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All ten, by all five measures, in one go."""
    out = tmp_path_factory.mktemp("measured") / "out"
    outcome = told(series, "--out", out, "--measures", FIVE, "--probes", probes, *CHEAP)
    assert [job["state"] for job in outcome["jobs"]] == ["finished"]
    assert outcome["notices"] == {}
    return out


def same(one: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(values(one), values(other))


def test_ten_checkpoints_by_five_measures(measured: Path) -> None:
    records = load_records(measured)
    assert tuple(sorted(set(records["step"]))) == STEPS
    assert set(records["task"]) == {"colours", "counting"} and set(records["level"]) == {1}
    assert {*FIVE.split(","), "accuracy", "answer_logprob"} <= set(records["measure"])
    layers = records.loc[records["measure"] == "rankme", "layer"]
    assert set(layers) == {"block 1", "block 2", "final"}
    assert set(records["run"]) == set(records["scale"]) == {"tiny"}
    # Ten models, each with its own weights and values.
    assert records["weights"].nunique() == 10
    ranks = records[(records["measure"] == "rankme") & (records["layer"] == "final")]
    assert ranks["value"].nunique() == 20 and (ranks["value"] >= 1).all()
    content = json.loads((measured / "settings.json").read_text())
    assert set(records["settings"]) | set(records["data"]) <= content["hashes"].keys()
    assert content["chance"] == {"colours": 0.5, "counting": 0.5}


def test_their_report(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sets of different sizes, with the map of layers by step and behaviour on every set."""
    shown = {"layers": "Layer by step", "behaviour": "Behaviour on probe sets"}
    shown |= {"gradient-ranks": "Rank of the gradients", "hessian": "Curvature of the loss"}
    shown |= {"llc": "Local learning coefficient"}
    drawn = [picture for picture in figures.FIGURES if picture.name in shown]
    monkeypatch.setattr(figures, "FIGURES", tuple(drawn))  # others have their own tests
    monkeypatch.setattr(figures, "OVERVIEW", ())
    out = tmp_path / "out"
    shutil.copytree(measured, out)
    result = CliRunner().invoke(main, ["report", str(out), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [cell["task"] for cell in told["cells"]] == ["colours", "counting"]
    assert [row["checkpoints"] for row in told["llc"]] == [10, 10]
    assert {row["measure"] for row in told["hessian"]} == {"hessian_top"}
    page = (out / "report.html").read_text()
    assert "Only RankMe reliably leads" in page  # the precursor analysis
    for name, heading in shown.items():
        assert heading in page and (out / "figures" / f"{name}.png").stat().st_size > 10_000, name


def test_killed_and_resumed_gives_the_same(
    measured: Path, series: Path, probes: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = [series, "--out", out, "--measures", FIVE, "--probes", probes, *CHEAP]
    command = [sys.executable, "-m", "geomfast.cli.main", "measure", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(out.glob("records/tiny/step-*.parquet"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = set(load_records(out)["step"])
    assert 3 <= len(there) < 10
    outcome = told(*arguments)
    assert [(job["checkpoints"], job["measured"]) for job in outcome["jobs"]] == [
        (10 - len(there), 10.0 - len(there))
    ]
    same(measured, out)


def test_the_same_command_again_does_nothing_and_more_adds(
    measured: Path, series: Path, probes: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(measured, out)
    assert told(series, "--out", out, "--measures", FIVE, "--probes", probes, *CHEAP)["jobs"] == []
    rest = ["--probes", probes, "--threads", "1"]
    plan = told(series, "--out", out, "--measures", "hessian_trace", *rest, "--dry-run")
    assert plan["runs"][0]["steps"] == list(STEPS) and plan["runs"][0]["seconds"] is None
    shown = call(series, "--out", out, "--measures", "hessian_trace", *rest, "--dry-run").output
    assert "time: not known until a checkpoint has all of these measures" in shown
    refused = call(series, "--out", out, "--probes", probes, "--samples", "4")
    assert refused.exit_code == 2
    assert "rankme.samples: None there, 4 asked for" in refused.output
    # Another way to sample llc is refused only where llc is asked for.
    lr = ["--llc-lr", "1e-4", "--dry-run"]
    assert call(series, "--out", out, "--probes", probes, *lr).exit_code == 0
    refused = call(series, "--out", out, "--probes", probes, "--measures", "llc", *lr)
    assert refused.exit_code == 2 and "llc.lr: auto there, 0.0001 asked for" in refused.output


def test_asked_to_stop_it_leaves_between_measures(
    series: Path, probes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = OpenedModel.take
    taken: list[set[str]] = []

    def and_stop(self: OpenedModel, measures: set[str]) -> list[dict[str, Any]]:
        taken.append(measures)
        rows = take(self, measures)
        if len(taken) == 3:  # of the second checkpoint the first group, which is complete
            signal.raise_signal(signal.SIGTERM)
        return rows

    monkeypatch.setattr(OpenedModel, "take", and_stop)
    two = ["--measures", "rankme,fisher_rank", "--probes", probes, "--threads", "1"]
    outcome = told(series, "--out", tmp_path / "out", *two, code=130)
    assert [job["state"] for job in outcome["jobs"]] == ["stopped"]
    assert taken == [{"behaviour", "rankme"}, {"fisher_rank"}, {"behaviour", "rankme"}]
    parts = sorted(path.name for path in (tmp_path / "out" / "records" / "tiny").iterdir())
    assert parts == [
        "step-00000000.behaviour+fisher_rank+rankme.parquet",
        "step-00000001.behaviour+rankme.parquet",
    ]
    plan = told(series, "--out", tmp_path / "out", *two, "--dry-run")
    assert plan["runs"][0]["left"] == 9
    # Of every measure the mean over the checkpoints that have it.
    records = load_records(tmp_path / "out")
    fisher = records["measure"].str.startswith("fisher_rank")
    each = (records[fisher]["seconds"].sum(), records[~fisher]["seconds"].sum() / 2)
    assert plan["runs"][0]["seconds"] == pytest.approx(9 * each[0] + 8 * each[1])
    shown = call(series, "--out", tmp_path / "out", *two, "--dry-run").output
    assert f"about {plan['runs'][0]['seconds']:.0f} s of measuring" in " ".join(shown.split())
    monkeypatch.setattr(OpenedModel, "take", take)
    outcome = told(series / "step1", "--out", tmp_path / "out", *two)
    assert outcome["jobs"][0]["measured"] == 1
    assert set(load_records(tmp_path / "out").query("step == 1")["measure"]) >= {"fisher_rank"}


def at_fisher_rank(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Something that happens as that measure begins."""
    take = OpenedModel.take

    def and_more(self: OpenedModel, measures: set[str]) -> list[dict[str, Any]]:
        if measures == {"fisher_rank"}:
            happens()
        return take(self, measures)

    monkeypatch.setattr(OpenedModel, "take", and_more)


def test_asked_to_stop_it_drops_the_measure_in_hand(
    series: Path, probes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_fisher_rank(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
    two = ["--measures", "rankme,fisher_rank", "--probes", probes, "--threads", "1"]
    told(series, "--out", tmp_path / "out", *two, code=130)
    parts = [path.name for path in (tmp_path / "out" / "records" / "tiny").iterdir()]
    assert parts == ["step-00000000.behaviour+rankme.parquet"]


def test_a_measure_that_fails_leaves_those_before_it(
    series: Path, probes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack() -> None:
        raise MemoryError("too large")

    at_fisher_rank(monkeypatch, lack)
    two = ["--measures", "rankme,fisher_rank", "--probes", probes, "--threads", "1"]
    outcome = told(series / "step0", "--out", tmp_path / "out", *two, code=1)
    assert "step0: MemoryError: too large" in outcome["jobs"][0]["error"]
    assert outcome["jobs"] == outcome["results"] and outcome["state"] == "failed"
    assert {"accuracy", "rankme"} <= set(load_records(tmp_path / "out")["measure"])


def test_a_measure_at_fewer_checkpoints_and_then_at_more(
    series: Path, probes: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    two = [series, "--out", out, "--probes", probes, "--threads", "1"]
    two += ["--measures", "rankme,fisher_rank"]
    few = [*two, "--cadence", "fisher_rank=3"]
    told(*few)

    def steps() -> list[int]:
        records = load_records(out)
        assert tuple(sorted(set(records["step"]))) == STEPS
        return sorted(set(records[records["measure"] == "fisher_rank"]["step"]))

    assert steps() == [0, 8, 512]
    path = out / "settings.json"
    assert json.loads(path.read_text())["grid"]["cadence"] == {"fisher_rank": 3}
    assert told(*few)["results"] == []
    more = [*two, "--cadence", "fisher_rank=4"]
    plan = told(*more, "--dry-run")
    assert plan["runs"][0]["steps"] == [4, 32]
    told(*more)
    assert steps() == [0, 4, 8, 32, 512]
    assert json.loads(path.read_text())["grid"]["cadence"] == {"fisher_rank": 4}
    refused = call(*two, "--cadence", "llc=3")
    assert refused.exit_code == 2 and "it is not among --measures" in refused.output
    # A folder from before there was a cadence had every measure at every checkpoint.
    content = read_sealed(path)
    del content["grid"]["cadence"]
    write_sealed(path, content)
    assert told(*more)["results"] == []
    assert json.loads(path.read_text())["grid"]["cadence"] == {}


@pytest.fixture
def damaged(series: Path, tmp_path: Path) -> Path:
    """Three checkpoints, the middle one cut short."""
    folder = tmp_path / "damaged"
    for step in (0, 8, 512):
        shutil.copytree(series / f"step{step}", folder / f"step{step}")
    weights = folder / "step8" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


def test_a_damaged_checkpoint_leaves_the_others(
    damaged: Path, series: Path, probes: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = [damaged, "--out", out, "--probes", probes, "--threads", "1"]
    result = call(*arguments)
    assert result.exit_code == 1
    assert "2 of 3 checkpoints are measured" in result.output
    assert "step8: " in result.output and "weights cannot be read" in result.output
    assert set(load_records(out)["step"]) == {0, 512}
    why = out / "failures" / "damaged-step8.txt"
    assert "weights cannot be read" in why.read_text()
    shutil.copy(series / "step8" / "model.safetensors", damaged / "step8")
    assert call(*arguments).exit_code == 0
    assert set(load_records(out)["step"]) == {0, 8, 512}
    assert not why.exists()


def test_weights_that_have_changed_since_are_refused(
    damaged: Path, series: Path, probes: str, tmp_path: Path
) -> None:
    one, out = damaged / "step512", tmp_path / "out"
    assert call(one, "--out", out, "--probes", probes).exit_code == 0
    shutil.copy(series / "step16" / "model.safetensors", one)
    result = call(one, "--out", out, "--probes", probes, "--measures", "hessian_top")
    assert result.exit_code == 1 and "other weights than those measured" in result.output


def test_probes_longer_than_the_context_are_skipped_with_a_notice(
    series: Path, tmp_path: Path
) -> None:
    long = {"prompt": " ".join(WORDS * 3), "choices": ["red", "blue"], "answer": 0}
    short = {"prompt": "the cat is", "choices": ["red", "blue"], "answer": 0}
    others = [short | {"prompt": f"the {word} is"} for word in ("dog", "mat")]
    sets = {"mixed": [long, short, *others], "long": [long, long | {"answer": 1}]}
    for name, items in sets.items():
        text = "\n".join(json.dumps(item) for item in items)
        (tmp_path / f"{name}.jsonl").write_text(text)
    probes = ",".join(str(tmp_path / f"{name}.jsonl") for name in sets)
    outcome = told(series / "step0", "--out", tmp_path / "out", "--probes", probes)
    notices = "\n".join(outcome["notices"])
    assert "mixed: 1 probe skipped, longer than the context of 32" in notices
    assert "long: 2 probes skipped" in notices and "0 left" in notices
    records = load_records(tmp_path / "out")
    assert set(records["task"]) == {"mixed"} and set(records["n"]) == {3}


def test_out_of_memory_is_a_notice(
    series: Path, probes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geomfast.lm import reading

    padded = reading.padded

    def only_few(rows: list[Any], padding: int) -> Any:
        if len(rows) > 2:
            raise MemoryError
        return padded(rows, padding)

    monkeypatch.setattr(reading, "padded", only_few)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # of all those libraries, which takes a second
    outcome = told(series / "step0", "--out", tmp_path / "out", "--probes", probes)
    assert any("out of memory" in notice for notice in outcome["notices"])


def test_memory_that_lacks_once_leaves_one_run(
    series: Path, probes: str, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint with fewer samples at once has the values, and the settings, of the others."""
    from geomfast.lm import hf

    whole = load_records(measured).query("step in (0, 16)")
    whole = whole[~whole["measure"].str.startswith("hessian")].reset_index(drop=True)
    (poor,) = set(whole.loc[whole["step"] == 16, "weights"])
    (tmp_path / "tiny").mkdir()
    for step in (0, 16):
        (tmp_path / "tiny" / f"step{step}").symlink_to(series / f"step{step}")
    take, loss_fn = OpenedModel.take, hf.loss_fn
    most = [0]

    def and_watch(self: OpenedModel, measures: set[str]) -> list[dict[str, Any]]:
        most[0] = 2 if self.weights == poor else 100
        return take(self, measures)

    def limited(model: Any, batch: Any) -> Any:
        if len(batch["input_ids"]) > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss_fn(model, batch)

    monkeypatch.setattr(OpenedModel, "take", and_watch)
    monkeypatch.setattr(hf, "loss_fn", limited)
    monkeypatch.setattr(gc, "collect", lambda: 0)
    out = tmp_path / "out"
    arguments = ["--measures", FIVE.replace("hessian_top,", ""), "--probes", probes, *CHEAP]
    outcome = told(tmp_path / "tiny", "--out", out, *arguments)
    assert {notice.split(" continues ")[0] for notice in outcome["notices"]} == {
        "out of memory: the Gram matrix of gradients",
        "out of memory: sampling the llc",
    }
    records = load_records(out)
    for column in ("measure", "task", "step", "n", "settings", "data", "weights"):
        assert records[column].tolist() == whole[column].tolist(), column
    values = whole["value"].tolist()
    assert records["value"].tolist() == pytest.approx(values, rel=2e-3, abs=1e-5, nan_ok=True)
    assert read(out).runs == ["tiny"]  # which refuses what is contradictory


def nothing_to_find(model: Any) -> list[str]:
    from torch import nn

    return find_blocks(nn.Linear(1, 1))


def test_a_model_without_hidden_states(
    series: Path, probes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geomfast.measures.model import states

    monkeypatch.setattr(states, "find_blocks", nothing_to_find)
    result = call(series / "step0", "--out", tmp_path / "out", "--probes", probes)
    assert result.exit_code == 1
    assert "no list of blocks whose hidden states could be taken" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere/at/all"], "no such folder: nowhere/at/all"),
        (["{empty}"], "neither a geomfast sweep, nor a model of transformers"),
        (["{series}", "--revisions", "step0"], "--revisions are of a model on the hub"),
        (["{series}", "--probes", "nonsense"], "nonsense"),
        (["{series}", "--probes", "syntax,builtin"], "two sets are called 'syntax'"),
        (["{series}", "--measures", "probe_accuracy"], "not of checkpoints like these"),
        (["{series}", "--measures", "nonsense"], "no measure 'nonsense'"),
        (["{series}", "--out", "{series}"], "is not empty and has no settings.json"),
    ],
)
def test_bad_usage(arguments: list[str], said: str, series: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    result = call(*(text.format(series=series, empty=empty) for text in arguments), "--dry-run")
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())


@pytest.fixture
def hub(series: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with stand_in(series, monkeypatch) as server:
        yield server


def test_revisions_of_a_model_on_the_hub(hub: Any, probes: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [MODEL, "--out", out, "--probes", probes, "--threads", "1"]
    plan = told(*arguments, "--revisions", "all", "--dry-run")
    assert plan["runs"][0]["steps"] == list(STEPS)
    assert plan["runs"][0]["disk_bytes"] * 5 == plan["runs"][0]["download_bytes"] > 50_000
    assert not out.exists() and not hub.served
    outcome = told(*arguments, "--revisions", "step512,step7,step0", code=1)
    assert "step7: someone/tiny has no revision 'step7'" in outcome["jobs"][0]["error"]
    assert set(load_records(out)["step"]) == {0, 512}
    assert not list((out / "downloads").iterdir())
    # Another revision adds work; what is measured is not downloaded again.
    hub.served.clear()
    told(*arguments, "--revisions", "step512,step8,step0")
    assert {revision for revision, _ in hub.served} == {"step8"}


def test_no_network_keeps_what_is_measured(
    hub: Any, probes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    take = OpenedModel.take

    def and_cut(self: OpenedModel, measures: set[str]) -> list[dict[str, Any]]:
        hub.dead = True
        return take(self, measures)

    monkeypatch.setattr(OpenedModel, "take", and_cut)
    arguments = [MODEL, "--out", out, "--probes", probes, "--revisions", "step0,step1,step2,step4"]
    outcome = told(*arguments, code=1)
    assert "What is measured is kept" in outcome["jobs"][0]["error"]
    # Explained, and written down as what is not.
    (why,) = (out / "failures").iterdir()
    assert why.name == "tiny.txt" and "What is measured is kept" in why.read_text()
    done = set(load_records(out)["step"])
    assert 1 <= len(done) < 4  # the second may have been here before the network went
    hub.dead = False
    monkeypatch.setattr(OpenedModel, "take", take)
    # Tried again and forgotten, what jobs of other names failed of too.
    mark_failed(out, "tiny-1of2", 2, "no network", "")
    assert told(*arguments)["failures"] == {}
    assert set(load_records(out)["step"]) == {0, 1, 2, 4}
    assert not list((out / "failures").iterdir())
