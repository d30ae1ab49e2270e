"""What a user reads when a sweep has ended."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from geomfast.cli.outcome import show_outcome
from geomfast.cli.sweep import _result, _told
from geomfast.runs.executors.events import Event
from geomfast.runs.failures import mark_failed
from geomfast.runs.outcome import exit_code, outcome_of, result
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import Settings, run_specs

SETTINGS = Settings("joint", ("COPY",), (1,), 2, 8, None, "fp32", 2, 2, 3, 16)


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some, in the folder "out"."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "out" / "records" / "a" / "step.parquet"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def shown(runs: list[dict[str, Any]], state: str = "finished") -> list[str]:
    output = io.StringIO()
    told = {"out": "out", "state": state, "results": runs, "failures": {}, "notices": {}}
    show_outcome(told, _told, Console(file=output, width=40))
    return output.getvalue().splitlines()


SECONDS = {"training": 75.0, "writing": 1.0, "behaviour": 4.0, "llc": 20.0}
DONE = {"name": "a", "state": "finished", "real_fraction": 0.953, "seconds": SECONDS}


def test_shares_of_the_time_are_said_the_largest_measure_first() -> None:
    assert shown([DONE]) == [
        "a: finished after 100 s: 75.0% training, 24.0% measuring (llc 20.0%, behaviour 4.0%), "
        "1.0% writing; 95.3% of the tokens processed were real",
        "Next: geomfast report out",
    ]


def test_a_report_is_the_next_step_only_of_records(records: Path) -> None:
    stopped = {"name": "a", "state": "stopped"}
    resume = "Stopped: run the same command again to resume"
    assert shown([stopped], "stopped") == ["a: stopped", resume, "Next: geomfast report out"]
    records.unlink()
    assert shown([stopped], "stopped") == ["a: stopped", resume]


def test_nothing_is_said_of_tokens_where_none_were_processed() -> None:
    """A run whose training was done before is only measured."""
    assert shown([{**DONE, "real_fraction": 0.0}])[0].endswith("1.0% writing")


def test_several_runs_are_summed() -> None:
    other = {"name": "b", "state": "finished", "seconds": {"behaviour": 30.0, "rankme": 70.0}}
    lines = shown([DONE, other, {"name": "c", "state": "stopped"}])
    assert lines[1] == "b: finished after 100 s: 100.0% measuring (rankme 70.0%, behaviour 30.0%)"
    assert lines[2] == "c: stopped"
    assert lines[3].startswith("these 2 runs: 200 s: 37.5% training, 62.0% measuring (rankme 35.0%")


def test_a_traceback_is_shown_where_the_error_does_not_explain_itself() -> None:
    failure = {"name": "a", "state": "failed", "details": "Traceback\n", "error": "KeyError: 3"}
    assert shown([{**failure, "explained": False}])[:3] == ["a: failed", "Traceback", "KeyError: 3"]
    assert shown([{**failure, "explained": True}]) == [
        "a: failed",
        "KeyError: 3",
        "Reasons of failures are in out/failures; run the same command again to retry",
        "Next: geomfast report out",
    ]


def test_an_outcome_has_every_run_and_its_seconds(tmp_path: Path) -> None:
    jobs = [
        Job(c, SETTINGS, (), tmp_path, "cpu", 1) for c in run_specs(SETTINGS, ("nano",), (0, 1, 2))
    ]
    assert jobs[0].run()
    failed = Event("joint-nano-seed1", "failed", 2, {"loss": 1.0}, "bad", "Traceback", True)
    ended = {"joint-nano-seed0": Event("joint-nano-seed0", "finished", 2), failed.run: failed}
    runs = [
        _result(job, ended.get(job.name), left=left)
        for job, left in zip(jobs, (True, True, False), strict=True)
    ]
    assert [found["state"] for found in runs] == ["finished", "failed", "finished"]
    assert set(runs[0]["seconds"]) == {"training", "writing", "behaviour"}
    assert runs[1]["error"] == "bad" and runs[1]["details"] == "Traceback"
    assert "seconds" not in runs[1] and set(runs[2]) == {"name", "run", "state"}
    never_begun = {"name": "joint-nano-seed1", "run": "joint-nano-seed1", "state": "stopped"}
    assert _result(jobs[1], None, left=True) == never_begun


def test_one_shape_and_one_exit_code_for_all(tmp_path: Path) -> None:
    event = Event("a", "finished", 3, {"loss": 1.0})
    done = result("a", event, left=True, scale="1x8")
    assert done == {"name": "a", "scale": "1x8", "state": "finished", "step": 3, "loss": 1.0}
    stopped = result("b", None, left=True)
    failed = result("c", Event("c", "failed", error="bad"), left=True)
    for results, state, code in (
        ([done], "finished", 0),
        ([], "finished", 0),
        ([done, stopped], "stopped", 130),
        ([done, stopped, failed], "failed", 1),
    ):
        outcome = outcome_of(tmp_path, results, {"a"}, jobs=results)
        assert (outcome["state"], exit_code(outcome)) == (state, code)
        assert set(outcome) == {"out", "state", "results", "failures", "notices", "jobs"}
    # A failure of an earlier attempt is named; one that stays for ever fails the whole.
    for name in ("a", "another"):
        mark_failed(tmp_path, name, 3, "diverged", "")
    assert outcome_of(tmp_path, [done], {"a"})["failures"] == {"a": "diverged"}
    assert outcome_of(tmp_path, [done], {"a"})["state"] == "finished"
    assert outcome_of(tmp_path, [done], {"a"}, final={"a"})["state"] == "failed"


def test_a_loss_that_is_not_finite_is_none_as_json_has_no_number_for_it() -> None:
    told = result("a", Event("a", "finished", 3, {"loss": float("nan"), "failed": 2.0}), left=True)
    assert (told["loss"], told["failed"]) == (None, 2.0)
