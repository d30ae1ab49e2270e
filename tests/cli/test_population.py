"""``geomfast population`` as a user meets it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from geomfast.cli.main import main
from geomfast.files import read_sealed, write_sealed
from geomfast.population import job
from geomfast.records import load_records, write_part
from geomfast.runs.cadence import measurement_steps
from geomfast.runs.failures import mark_failed

SMALL = ["--train-length", "3", "--test-lengths", "5", "--batch-size", "6", "--samples", "10"]
SMALL += ["--steps", "40", "--checkpoints", "11", "--threads", "1", "--scales", "1x16"]


def call(out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["population", str(out), *SMALL, *arguments])


def values(out: Path) -> pd.DataFrame:
    frame = load_records(out).drop(columns="seconds")
    return frame.sort_values(["run", "step", "level", "measure", "layer"]).reset_index(drop=True)


def test_it_runs_says_what_is_next_grows_and_does_nothing_twice(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = call(out, "--seeds", "0..2")
    assert first.exit_code == 0, first.output
    assert "count-1x16-seeds0-2: finished, 3 members, 3 at once" in first.output
    assert first.output.splitlines()[-1] == f"Next: geomfast report {out}"
    before = values(out)
    grown = call(out, "--seeds", "0..3", "--json")
    assert grown.exit_code == 0, grown.output
    outcome = json.loads(grown.stdout)
    assert [group["group"] for group in outcome["groups"]] == [
        "count-1x16-seeds0-2",
        "count-1x16-seeds3-3",
    ]
    assert {group["state"] for group in outcome["groups"]} == {"finished"}
    assert outcome["failed_members"] == outcome["failures"] == {}
    assert outcome["results"] == outcome["groups"] and outcome["state"] == "finished"
    after = values(out)
    pd.testing.assert_frame_equal(after[after["seed"] < 3].reset_index(drop=True), before)
    assert set(after["seed"]) == {0, 1, 2, 3}
    told = json.loads((out / "settings.json").read_text())
    assert told["format"] == "geomfast population 1" and len(told["calls"]) == 2
    assert set(after["settings"]) | set(after["data"]) == set(told["hashes"])


def test_bad_usage_says_what_is_possible(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, said in (
        (["--scales", "16"], "'16' is not LAYERSxWIDTH"),
        (["--scales", "1x24"], "must be a multiple of 16"),
        (["--seeds", "3..1"], "ranges ascend"),
        (["--test-lengths", "0"], "'0' is not a length"),
        (["--batch-size", "2"], "batch_size = 2 is less than train_length = 3"),
        (["--task", "reverse-add", "--test-lengths", "40"], "lengths from 1 to 17"),
        (["--device", "cuda:77"], "cuda:77"),
    ):
        result = call(out, *arguments)
        assert result.exit_code == 2, result.output
        assert said in " ".join(result.output.split()), result.output
    assert not (out / "settings.json").exists()


GRAMMAR = ["--task", "question-formation", "--batch-size", "6", "--samples", "10", "--steps", "8"]
GRAMMAR += ["--checkpoints", "4", "--threads", "1", "--scales", "1x16", "--seeds", "0,1"]


def grammar(out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["population", str(out), *GRAMMAR, *arguments])


def test_an_axis_beside_the_scale_grows_and_is_reported(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = grammar(out, "--axis", "mixture=0,0.5")
    assert first.exit_code == 0, first.output
    before = values(out)
    assert set(before["scale"]) == {"1x16-mixture0", "1x16-mixture0.5"}
    assert set(before["run"]) >= {"question-formation-1x16-mixture0.5-seed1"}
    assert before["task"].nunique() == 4
    more = grammar(out, "--axis", "mixture=1,0.5", "--axis", "positions=none")
    assert more.exit_code == 0, more.output
    grown = grammar(out, "--axis", "mixture=0.5,1")
    assert grown.exit_code == 0, grown.output
    told = json.loads((out / "settings.json").read_text())
    assert told["recipes"]["1x16-mixture0.5"]["mixture"] == 0.5
    assert set(told["grid"]["scales"]) >= {"1x16-mixture0", "1x16-mixture1"}
    after = values(out)
    same = after[after["scale"].isin(set(before["scale"]))].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, before)
    assert set(after["settings"]) | set(after["data"]) == set(told["hashes"])
    reported = CliRunner().invoke(main, ["report", str(out)])
    assert reported.exit_code == 0, reported.output
    assert "QUESTION-FORMATION main auxiliary: success from 0.5" in reported.output
    found = json.loads((out / "report.json").read_text())
    names = [row["scale"] for row in found["populations"][0]["summary"]]
    assert names.index("1x16-mixture0") < names.index("1x16-mixture0.5")


def test_points_without_an_order_are_not_compared_with_neighbours(tmp_path: Path) -> None:
    seeds = ["--seeds", "0..9", "--checkpoints", "2", "--steps", "4"]
    for name, axes, ordered in (
        ("one", ["--axis", "train-length=3,2"], True),
        ("kinds", ["--train-length", "3", "--axis", "positions=none,alibi"], False),
        ("two", ["--axis", "train-length=2,3", "--axis", "weight-decay=0,0.3"], False),
    ):
        out = tmp_path / name
        arguments = [*SMALL[2:], *seeds, *axes]
        made = CliRunner().invoke(main, ["population", str(out), *arguments])
        assert made.exit_code == 0, made.output
        reported = CliRunner().invoke(main, ["report", str(out), "--json"])
        assert reported.exit_code == 0, reported.output
        result = json.loads(reported.stdout)
        longest = result["populations"][-1]
        assert bool(longest["distances"]) == ordered
        assert any("have no order" in note for note in result["notes"]) != ordered
        assert (longest["length"], longest["name"]) == (5, "COUNT, length 5")


def test_options_of_other_tasks_and_axes_that_clash_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, said in (
        (["--train-length", "3"], "--train-length: question-formation has none"),
        (["--axis", "train-length=3"], "--axis train-length: question-formation has none"),
        (["--axis", "mixture=2"], "mixture='2' is not a share"),
        (["--axis", "mixture=0", "--axis", "mixture=1"], "--axis mixture is there twice"),
        (["--axis", "mixture=0", "--mixture", "1"], "--axis mixture and --mixture"),
        (["--axis", "positions=none", "--positions", "alibi"], "--axis positions and --positions"),
        (["--batch-size", "2"], "a step has sentences of all 3 lengths"),
        (["--mixture", "nan"], "--mixture"),
    ):
        result = grammar(out, *arguments)
        assert result.exit_code == 2, result.output
        assert said in " ".join(result.output.split()), result.output
    refused = call(out, "--mixture", "0.5")
    assert refused.exit_code == 2 and "--mixture: count has none" in refused.output
    assert not (out / "settings.json").exists()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    assert call(tmp_path, "--seeds", "0").exit_code == 0
    result = call(tmp_path, "--seeds", "0", "--samples", "11")
    assert result.exit_code == 2
    assert "samples: 10 there, 11 asked for" in result.output


def test_members_that_failed_are_listed(tmp_path: Path) -> None:
    assert call(tmp_path, "--seeds", "0,1").exit_code == 0
    mark_failed(tmp_path, "count-1x16-seed1", 7, "loss or gradient not finite at step 7", "")
    result = call(tmp_path, "--seeds", "0,1")
    assert result.exit_code == 1
    assert "count-1x16-seed1: left out, loss or gradient not finite at step 7" in result.output


def test_groups_in_worker_processes_come_out_the_same(tmp_path: Path) -> None:
    """As groups one after the other, to the last bit; as many at once as asked for."""
    two = ["--seeds", "0..2", "--scales", "1x8,1x16"]
    assert call(tmp_path / "one", *two).exit_code == 0
    both = call(tmp_path / "two", *two, "--workers", "2", "--json")
    assert both.exit_code == 0, both.output
    assert [group["state"] for group in json.loads(both.stdout)["groups"]] == ["finished"] * 2
    pd.testing.assert_frame_equal(values(tmp_path / "two"), values(tmp_path / "one"))


def test_a_group_on_ray_comes_out_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (geomfast[ray])")
    assert call(tmp_path / "local", "--seeds", "0..2").exit_code == 0
    on_ray = call(tmp_path / "ray", "--seeds", "0..2", "--engine", "ray")
    assert on_ray.exit_code == 0, on_ray.output
    pd.testing.assert_frame_equal(values(tmp_path / "ray"), values(tmp_path / "local"))


def test_a_dry_run_says_what_is_left_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    two = ["--scales", "1x8,1x16", "--seeds", "0..2", "--dry-run"]
    plan = json.loads(call(out, *two, "--json").stdout)
    assert not out.exists()
    assert [row["run"] for row in plan["runs"]] == ["count-1x8-seeds0-2", "count-1x16-seeds0-2"]
    for row in plan["runs"]:
        assert row["checkpoints_left"] == row["checkpoints"] and row["steps_left"] == 40
        assert set(row["seconds"]) == {"training", "writing", "behaviour", "rankme"}
    total = plan["total"]
    assert total["wall_seconds"] == pytest.approx(total["total_seconds"]) and total["at_once"] == 1
    assert json.loads(call(out, *two, "--json", "--workers", "2").stdout)["total"]["at_once"] == 2
    assert call(out, "--seeds", "0..2").exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    grown = call(out, "--seeds", "0..4", "--dry-run")
    assert grown.exit_code == 0, grown.output
    assert "count-1x16-seeds0-2" in grown.output and "done" in grown.output
    assert "Time of 1x16: as groups of the scale took so far" in grown.output
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_measure_at_fewer_checkpoints_and_then_at_more(tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert call(whole, "--seeds", "0..2").exit_code == 0
    assert call(out, "--seeds", "0..2", "--cadence", "rankme=3").exit_code == 0
    found, steps = values(out), sorted(set(values(whole)["step"]))
    assert sorted(set(found["step"])) == steps
    at = sorted(set(found[found["measure"] == "rankme"]["step"]))
    assert at == measurement_steps(steps, 3) and len(at) == 3
    told = json.loads((out / "settings.json").read_text())
    assert told["grid"]["cadence"] == {"rankme": 3}
    refused = call(out, "--seeds", "0..2", "--cadence", "llc=3")
    assert refused.exit_code == 2 and "no measure 'llc'" in refused.output
    assert call(out, "--seeds", "0..2").exit_code == 0
    pd.testing.assert_frame_equal(values(out), values(whole))
    assert json.loads((out / "settings.json").read_text())["grid"]["cadence"] == {}


def test_a_folder_from_before_there_was_a_cadence_is_resumed(tmp_path: Path) -> None:
    assert call(tmp_path, "--seeds", "0..2").exit_code == 0
    path, before = tmp_path / "settings.json", values(tmp_path)
    content = read_sealed(path)
    del content["grid"]["cadence"]
    write_sealed(path, content)
    min((tmp_path / "records").rglob("*.parquet")).unlink()
    assert call(tmp_path, "--seeds", "0..2", "--cadence", "rankme=2").exit_code == 0
    pd.testing.assert_frame_equal(values(tmp_path), before)
    assert json.loads(path.read_text())["grid"]["cadence"] == {}


LONG = ["--seeds", "0..2", "--steps", "150"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Records of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("straight") / "out"
    assert call(out, *LONG).exit_code == 0
    return values(out)


def test_killed_at_any_moment_it_goes_on(tmp_path: Path, straight: pd.DataFrame) -> None:
    out = tmp_path / "cut"
    command = [sys.executable, "-m", "geomfast.cli.main", "population", str(out), *SMALL, *LONG]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(out.glob("records/*/*.parquet"))) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(300) == -signal.SIGKILL
    assert len(list(out.glob("records/*/*.parquet"))) < 11
    assert call(out, *LONG).exit_code == 0
    pd.testing.assert_frame_equal(values(out), straight)


def test_interrupted_it_finishes_the_write_and_goes_on(
    tmp_path: Path, straight: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, rows: list) -> None:
        if path.name.startswith("step-00000004"):
            signal.raise_signal(signal.SIGINT)
        write_part(path, rows)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(job, "write_part", interrupted)
    result = call(tmp_path, *LONG)
    assert result.exit_code == 130, result.output
    assert "count-1x16-seeds0-2: stopped" in result.output
    assert signal.getsignal(signal.SIGINT) == before
    monkeypatch.undo()
    assert set(values(tmp_path)["step"]) == {0, 4}
    assert call(tmp_path, *LONG).exit_code == 0
    pd.testing.assert_frame_equal(values(tmp_path), straight)
