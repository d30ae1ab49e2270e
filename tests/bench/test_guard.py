"""The guard of the benchmark ratios, in particular that it fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.guard import main
from bench.interleave import interleave

GUARD = Path(__file__).parents[2] / "bench" / "guard.py"


@pytest.fixture
def guard(tmp_path, capsys):
    """Runs the guard on these ratios; returns the exit code and what was printed."""

    def run(measured: dict, committed: dict) -> tuple[int, str]:
        results, baseline = tmp_path / "results.json", tmp_path / "baseline.json"
        times = {"a": 1e9}  # absurd on purpose: times must not matter
        results.write_text(json.dumps({"ratios": measured, "median milliseconds": times}))
        baseline.write_text(json.dumps({"ratios": committed}))
        code = main([str(results), str(baseline)])
        return code, capsys.readouterr().out

    return run


def test_passes_within_the_margin(guard):
    code, out = guard({"a": 3.01, "b": 9.0}, {"a": {"value": 4.0, "margin": 0.25}})
    assert code == 0
    assert "1 of 1 ratios hold" in out


def test_fails_below_the_margin(guard):
    committed = {"a": {"value": 4.0, "margin": 0.25}, "b": {"value": 2.0, "margin": 0.1}}
    code, out = guard({"a": 2.99, "b": 2.0}, committed)
    assert code == 1
    assert "FAIL a" in out and "ok   b" in out


def test_fails_when_a_ratio_was_not_measured(guard):
    code, out = guard({"b": 2.0}, {"a": {"value": 4.0, "margin": 0.25}})
    assert code == 1
    assert "not measured" in out


def test_fails_when_nothing_is_guarded(guard):
    assert guard({"a": 1.0}, {})[0] == 1


def test_exit_code_of_the_command(tmp_path):
    (tmp_path / "r.json").write_text('{"ratios": {"a": 1.0}}')
    (tmp_path / "b.json").write_text('{"ratios": {"a": {"value": 4.0, "margin": 0.5}}}')
    command = [sys.executable, str(GUARD), str(tmp_path / "r.json"), str(tmp_path / "b.json")]
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_interleave_runs_each_once_a_round_in_turn():
    calls = []
    medians = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert set(medians) == set("abc")
    assert all(value >= 0.0 for value in medians.values())


def test_interleave_without_warm_up():
    calls = []
    interleave({name: lambda name=name: calls.append(name) for name in "ab"}, 1, warm_up=False)
    assert "".join(calls) == "ab"
