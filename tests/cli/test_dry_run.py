"""``geomfast sweep --dry-run``: nothing is written, and what is left is said."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from geomfast.cli.dry_run import show_plan
from geomfast.cli.main import main
from geomfast.measures import measures
from geomfast.runs.estimate import makespan
from geomfast.runs.failures import mark_failed
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import Settings, run_specs
from geomfast.testbed.models.scales import SCALES
from tests.sweep.tiny import prepare_folder

SMALL = (
    "--tasks COPY --levels 1 --steps 6 --checkpoints 5 --samples 16 --batch-size 8 --threads 1 "
    "--stack never"
)
#: What these options and the preset smoke come to; checkpoints lie at 0, 2, 4 and 6.
SETTINGS = Settings("joint", ("COPY",), (1,), 6, 8, None, "fp32", 60, 2, 5, 16)


def call(out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["sweep", str(out), *SMALL.split(), "--dry-run", *arguments])


def planned(out: Path, *arguments: str) -> dict[str, Any]:
    result = call(out, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def written(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_nothing_is_written_where_nothing_was(tmp_path: Path) -> None:
    plan = planned(tmp_path / "out", "--scales", "nano,micro", "--seeds", "0,1")
    assert not list(tmp_path.iterdir())
    names = [f"joint-{scale}-seed{seed}" for scale in ("nano", "micro") for seed in (0, 1)]
    assert [run["run"] for run in plan["runs"]] == names
    for run_ in plan["runs"]:
        assert (run_["checkpoints_left"], run_["checkpoints"], run_["steps_left"]) == (4, 4, 6)
        assert run_["total_seconds"] == pytest.approx(sum(run_["seconds"].values()))
        assert min(run_["memory_bytes"], run_["disk_bytes"]) > 1 << 20
    parts = {"training", "writing", "behaviour", "rankme", "probe_accuracy"}
    assert set(plan["runs"][0]["seconds"]) == parts
    total = plan["total"]
    assert set(plan["pace"]) == {"nano", "micro"} and total["runs_left"] == 4
    for key in ("total_seconds", "disk_bytes"):
        assert total[key] == pytest.approx(sum(run_[key] for run_ in plan["runs"]))
    # One after the other: as long as all together, and the memory of the largest.
    assert (total["at_once"], total["wall_seconds"]) == (1, pytest.approx(total["total_seconds"]))
    assert total["memory_bytes"] == max(run_["memory_bytes"] for run_ in plan["runs"])
    assert "factor" in plan["uncertainty"]


def test_runs_at_once_share_the_time_and_add_up_in_memory(tmp_path: Path) -> None:
    total = planned(tmp_path, "--seeds", "0..2", "--workers", "2")["total"]
    assert total["at_once"] == 2
    assert total["wall_seconds"] == pytest.approx(total["total_seconds"] * 2 / 3)
    one = planned(tmp_path)["total"]["memory_bytes"]
    assert total["memory_bytes"] == pytest.approx(2 * one)


def test_what_is_recorded_is_taken_off_and_failures_are_named(tmp_path: Path) -> None:
    grid = {"scales": ["nano"], "seeds": [0], "measures": ["rankme"]}
    prepare_folder(tmp_path, SETTINGS, grid, {})
    (spec,) = run_specs(SETTINGS, ("nano",), (0,))
    assert Job(spec, SETTINGS, ("rankme",), tmp_path, "cpu", threads=1, state_every=0.0).run()
    mark_failed(tmp_path, "joint-nano-seed1", 2, "ValueError: bad", "Traceback")
    before = written(tmp_path)
    plan = planned(tmp_path, "--measures", "rankme", "--seeds", "0,1")
    assert [run_["checkpoints_left"] for run_ in plan["runs"]] == [0, 4]
    assert plan["runs"][0]["total_seconds"] == 0 and plan["total"]["runs_left"] == 1
    assert plan["failed_before"] == {"joint-nano-seed1": "ValueError: bad"}
    more = ("--measures", "rankme,probe_accuracy", "--cadence", "probe_accuracy=2")
    (left,) = planned(tmp_path, *more)["runs"]
    # Weights of the first and the last checkpoints are there, those of step 2 are not.
    assert (left["checkpoints_left"], left["checkpoints"], left["steps_left"]) == (2, 4, 0)
    (left,) = planned(tmp_path, *more[:-1], "probe_accuracy=all")["runs"]
    assert (left["checkpoints_left"], left["checkpoints"], left["steps_left"]) == (4, 4, 2)
    assert set(left["seconds"]) == {"training", "writing", "probe_accuracy"}
    result = call(tmp_path, "--measures", "rankme", "--seeds", "0,1")
    assert "Failed before: joint-nano-seed1: ValueError: bad" in result.output
    assert written(tmp_path) == before
    done = call(tmp_path, "--measures", "rankme")
    assert done.exit_code == 0 and "done" in done.output and "about" not in done.output


def test_what_a_sweep_would_refuse_is_refused(tmp_path: Path) -> None:
    grid = {"scales": ["nano"], "seeds": [0], "measures": ["rankme"]}
    prepare_folder(tmp_path, SETTINGS, grid, {})
    (tmp_path / "file").touch()
    for out, more, why in (
        (tmp_path, ["--steps", "7"], "steps: 6 there, 7 asked for"),
        (tmp_path / "file", [], "is a file"),
        (tmp_path, ["--cadence", "llc=3"], "it is not among --measures"),
        (tmp_path, ["--device", "cuda:99"], "cannot be used"),
    ):
        result = call(out, *more)
        assert result.exit_code == 2 and why in result.output


ASSUME = ("--dry-run", "--device", "cuda", "--assume", "h200")


def assumed(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["sweep", "nowhere", *ASSUME, "--json", *arguments])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_glance_takes_eight_minutes_of_an_h200_at_most() -> None:
    plan = assumed("--preset", "glance")
    assert not Path("nowhere").exists()
    assert [run_["scale"] for run_ in plan["runs"]] == list(SCALES)
    for run_ in plan["runs"]:
        assert set(run_["seconds"]) == {"starting", "training", "writing", "behaviour", *measures()}
        for name, part in run_["parts"].items():
            assert part["seconds"] == pytest.approx(run_["seconds"][name])
            assert 0 <= part["device"] <= part["seconds"] * (1 + 1e-9)
        counted = {name for name, part in run_["parts"].items() if part["operations"]}
        assert counted >= {"training", "behaviour", *measures()} - {"probe_accuracy"}
    total = plan["total"]
    assert total["wall_seconds"] <= 8 * 60
    # All at once: as long as the longest takes, or as the GPU is busy with all.
    assert total["at_once"] == 6
    longest = max(run_["total_seconds"] for run_ in plan["runs"])
    assert total["wall_seconds"] == pytest.approx(max(longest, total["device_seconds"]))
    assert assumed("--preset", "glance", "--workers", "1")["total"]["wall_seconds"] == (
        pytest.approx(total["total_seconds"])
    )
    assert plan["uncertainty"] == "modelled, nothing measured on this device"
    assert all(figure["source"] for figure in plan["assumed"]["figures"].values())
    assert plan["pace"] == {}


def test_lite_and_paper_are_modelled_too() -> None:
    lite, paper = assumed("--preset", "lite")["total"], assumed("--preset", "paper")["total"]
    assert 15 * 60 < lite["wall_seconds"] < 60 * 60
    assert paper["wall_seconds"] > 5 * lite["wall_seconds"]
    # Writing is no quarter of it any more, and what is written is a few states of each run.
    assert lite["seconds"]["writing"] < 0.15 * lite["total_seconds"]
    every = assumed("--preset", "lite", "--state-every", "0")["total"]
    assert every["seconds"]["writing"] > 2 * lite["seconds"]["writing"]


def test_the_arithmetic_is_shown_with_its_rates() -> None:
    result = CliRunner().invoke(
        main,
        ["sweep", "nowhere", "--preset", "glance", "--scales", "nano", *ASSUME],
        env={"COLUMNS": "80"},
    )
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "NVIDIA H200: modelled, nothing measured on this device." in said
    assert "fp32 67 TFLOP/s ceiling of the device, by its data sheet" in said
    assert "kernel 2.4 us a nano training step of 167 kernels" in said
    assert "One after the other" in said and "GPU is busy for" in said
    table = result.output[: result.output.index("Assumed:")].splitlines()
    assert all(len(line) <= 80 for line in table)
    assert any(line.split()[:1] == ["hessian_density"] for line in table)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--device", "cuda"], "--assume h200 needs --dry-run"),
        (["--dry-run"], "it needs --device cuda"),
        (["--dry-run", "--device", "cuda:1"], "it needs --device cuda"),
        (["--dry-run", "--device", "cuda", "--engine", "ray"], "it needs --device cuda"),
    ],
)
def test_what_is_assumed_is_for_a_plan_only(tmp_path: Path, arguments: list[str], why: str) -> None:
    result = CliRunner().invoke(
        main, ["sweep", str(tmp_path / "out"), "--assume", "h200", *arguments]
    )
    assert result.exit_code == 2 and why in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_runs_fill_up_the_workers_longest_first() -> None:
    assert makespan([1.0, 2.0, 3.0], 1) == 6.0
    assert makespan([1.0, 2.0, 3.0], 2) == 3.0
    assert makespan([4.0, 3.0, 3.0, 2.0, 2.0], 2) == 8.0
    assert makespan([5.0, 1.0], 8) == 5.0
    assert makespan([], 3) == 0.0


def test_a_table_fits_a_narrow_terminal() -> None:
    run_ = {
        "run": "joint-xlarge-seed0",
        "seed": 0,
        "checkpoints_left": 220,
        "checkpoints": 220,
        "steps_left": 50_000,
        "seconds": {"training": 80_000.0, "writing": 300.0, "llc": 19_700.0, "rankme": 1.0},
        "total_seconds": 100_001.0,
        "memory_bytes": 13 << 30,
        "disk_bytes": 700 << 20,
    }
    total = {**run_, "runs_left": 1, "at_once": 1, "wall_seconds": 100_001.0}
    plan = {"runs": [run_], "total": total, "device": "cpu", "threads": 2, "failed_before": {}}
    output = io.StringIO()
    show_plan(plan | {"uncertainty": "within a lot"}, Console(file=output, width=80))
    lines = output.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines if "threads" not in line)
    (row,) = [line for line in lines if "joint" in line]
    assert row.split()[:6] == ["joint-xlarge-seed0", "220", "of", "220", "50000", "22.2"]
    assert row.rstrip().endswith("22.2 h   5.5 h 27.8 h 13.0 GiB 700 MiB")
    assert "Time: training 80%, llc 20%." in output.getvalue()
    assert "one after the other: about 27.8 h. Estimates: within a lot." in output.getvalue()
