"""``geomfast sweep`` as a user meets it: real processes, real signals."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from geomfast.cli.main import main
from geomfast.measures import measures
from geomfast.measures.catalog import part_of, spec_of
from geomfast.measures.spec import BEHAVIOUR
from geomfast.records import load_records
from geomfast.sweep.saved_model import load_model
from geomfast.testbed.training.checkpoints import weights_hash
from tests.fuzz.folders import in_process
from tests.recorded import values

SMALL = [
    "--tasks",
    "COPY,MOD",
    "--levels",
    "1",
    "--steps",
    "40",
    "--checkpoints",
    "24",
    "--samples",
    "16",
    "--batch-size",
    "8",
]
COMMAND = [sys.executable, "-m", "geomfast.cli.main", "sweep"]


def call(*arguments: object) -> Result:
    """The command in this process, and its runs in it too."""
    with in_process():
        return CliRunner().invoke(main, ["sweep", *map(str, arguments)])


#: Smoke's probes at three of the 21 checkpoints.
CADENCE = ("--cadence", "probe_accuracy=3")


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, str(out), *SMALL, *CADENCE, "--threads", "1", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


#: Names that are unknown, and what their refusal lists.
UNKNOWN = {
    "--tasks": ("FOO", "COPY, REV, SORT, PAR, CMP, ADD, MUL, MOD"),
    "--levels": ("9", "1, 2, 3"),
    "--scales": ("huge", "nano, micro, small, medium, large, xlarge"),
    "--measures": ("vibes", "rankme"),
    "--preset": ("grande", "smoke, nano, lite, glance, paper"),
}


@pytest.mark.parametrize("flag", UNKNOWN)
def test_an_unknown_name_lists_what_exists(tmp_path: Path, flag: str) -> None:
    value, listed = UNKNOWN[flag]
    result = call(tmp_path / "out", flag, value)
    assert result.exit_code == 2
    assert value in result.output
    assert listed in " ".join(result.output.replace("'", "").split())
    assert not (tmp_path / "out").exists()


def test_an_out_that_cannot_be_is_refused_before_training(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    for out, why in ((file, "is a file"), (tmp_path / "other", "not empty")):
        result = call(out, *SMALL)
        assert result.exit_code == 2
        assert why in result.output


def test_chains_that_cannot_be_stable_are_refused_before_training(tmp_path: Path) -> None:
    wrong = ("--llc-lr", 1e-2, "--llc-localization", 1000)
    result = call(tmp_path / "out", *SMALL, "--measures", "llc", *wrong)
    assert result.exit_code == 2
    assert "stable only below 0.004" in result.output
    assert not list(tmp_path.rglob("*.parquet"))


def test_an_unusable_device_is_refused(tmp_path: Path) -> None:
    result = call(tmp_path / "out", *SMALL, "--device", "cuda:99")
    assert result.exit_code == 2
    assert "--device cuda:99 cannot be used" in result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    out = tmp_path_factory.mktemp("sweep") / "out"
    code, stdout, stderr = finish(start(out, "--json"))
    assert code == 0, stderr
    return out, json.loads(stdout)


def test_json_is_alone_on_stdout_and_says_what_happened(
    finished: tuple[Path, dict[str, object]],
) -> None:
    out, outcome = finished
    assert outcome["out"] == str(out)
    (run,) = outcome["runs"]  # type: ignore[misc]
    assert (run["run"], run["state"], run["step"]) == ("joint-nano-seed0", "finished", 40)
    assert run["measure_seconds"] > 0
    assert run["train_seconds"] > 0
    parts = {"training", "writing", "behaviour", "rankme", "probe_accuracy"}
    assert set(run["seconds"]) == parts and min(run["seconds"].values()) > 0


def test_the_same_command_again_does_nothing(finished: tuple[Path, dict[str, object]]) -> None:
    out, _ = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}
    result = call(out, *SMALL, *CADENCE, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")} == before


def test_how_often_a_state_is_written_is_no_setting(
    finished: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    told = json.loads((out / "settings.json").read_text())
    assert "state_every" not in json.dumps({k: v for k, v in told.items() if k != "calls"})
    result = call(
        out,
        *SMALL,
        *CADENCE,
        "--threads",
        1,
        "--state-every",
        90,
        "--seeds",
        "0,1",
        "--stack",
        "never",
    )
    assert result.exit_code == 0, result.output
    # In less than a minute there is one state, at the end, and its weights serve other commands.
    states = [sorted(p.parent.name for p in out.rglob("optimizer.safetensors"))]
    assert states == [["step-00000040"] * 2]
    hashes = load_records(out).query("step == 40").drop_duplicates("run").set_index("run")
    for run in ("joint-nano-seed0", "joint-nano-seed1"):
        kept = load_model(out, run)
        assert kept.step == 40 and weights_hash(kept.model) == hashes["weights"][run]


def test_a_cadence_is_kept_to_and_noted(finished: tuple[Path, dict[str, object]]) -> None:
    out, _ = finished
    frame = load_records(out)
    assert frame["step"].nunique() == 21
    probed = frame[frame["measure"] == "probe_accuracy"]
    assert probed["step"].unique().tolist() == [0, 20, 40]
    grid = json.loads((out / "settings.json").read_text())["grid"]
    assert grid["cadence"] == {"probe_accuracy": 3}


def test_a_cadence_of_what_is_not_measured_is_refused(tmp_path: Path) -> None:
    result = call(tmp_path / "out", *SMALL, "--cadence", "llc=3")
    assert result.exit_code == 2
    assert "--cadence llc: it is not among --measures" in result.output
    assert not (tmp_path / "out").exists()


def test_other_settings_are_refused(finished: tuple[Path, dict[str, object]]) -> None:
    out, _ = finished
    result = call(out, *SMALL, "--steps", 41)
    assert result.exit_code == 2
    assert "steps: 40 there, 41 asked for" in result.output


def ends_like(straight: Path, out: Path) -> None:
    """Resumed and let end, it has the records of one that nothing has stopped."""
    result = call(out, *SMALL, *CADENCE, "--threads", 1)
    assert result.exit_code == 0, result.output
    pd.testing.assert_frame_equal(values(straight), values(out))


def wait_for_parts(out: Path, parts: int, process: subprocess.Popen[str]) -> None:
    """Until so many are written; the limit is for what never comes."""
    deadline = time.monotonic() + 120
    while len(list(out.rglob("step-*.parquet"))) < parts:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_kills_at_random_moments_change_no_record(
    finished: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    """Whether it resumes from the last checkpoint or, with no state yet, from the beginning."""
    straight, _ = finished
    out = tmp_path / "out"
    generator = random.Random(time.time_ns())
    for state_every in ("60", "0"):
        for alone in (True, False):
            parts = len(list(out.rglob("step-*.parquet")))
            process = start(out, "--state-every", state_every)
            # Until it has done something new, then a random moment more.
            wait_for_parts(out, parts + 2, process)
            time.sleep(generator.uniform(0, 0.15))
            if alone:
                # Only the sweep: its orphaned run must notice, and let the next sweep have the run.
                process.kill()
                process.stdout.close()  # type: ignore[union-attr]
                process.stderr.close()  # type: ignore[union-attr]
                process.wait()
            else:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            load_records(out)  # always readable
    ends_like(straight, out)


def test_a_polite_stop_saves_and_resumes(
    finished: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    straight, _ = finished
    out = tmp_path / "out"
    # A terminal sends Ctrl-C to the whole group; a scheduler sends SIGTERM to one process.
    for number, send in ((signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)):
        parts = len(list(out.rglob("step-*.parquet")))
        process = start(out, "--json")
        wait_for_parts(out, parts + 3, process)
        send(process.pid, number)
        code, stdout, stderr = finish(process)
        assert "Traceback" not in stderr
        assert code == 130, stderr
        assert json.loads(stdout)["runs"][0]["state"] == "stopped"
        assert not list(out.rglob(".tmp-*"))
    ends_like(straight, out)


def children(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the runs of a sweep."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == process.pid and "spawn_main" in command:
            found.append(int(folder.name))
    return found


def test_a_run_that_is_killed_is_a_failed_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out, "--json")
    wait_for_parts(out, 3, process)
    (child,) = children(process)
    os.kill(child, signal.SIGKILL)
    code, stdout, stderr = finish(process)
    (run,) = json.loads(stdout)["runs"]
    assert code == 1, stderr
    assert run["state"] == "failed"
    assert "SIGKILL" in run["error"]
    assert "SIGKILL" in (out / "failures" / "joint-nano-seed0.txt").read_text()


def test_a_failed_cell_leaves_the_others_and_is_listed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    few = [*SMALL, "--steps", 4, "--checkpoints", 3, "--threads", 1, "--stack", "never", "--json"]
    assert call(out, *few).exit_code == 0
    # Seed 1's folder is a file: that cell cannot run, seed 2's can.
    (out / "checkpoints" / "joint-nano-seed1").write_text("in the way")
    result = call(out, *few, "--seeds", "0..2")
    states = {run["run"]: run["state"] for run in json.loads(result.stdout)["runs"]}
    assert result.exit_code == 1, result.output
    assert states == {
        "joint-nano-seed0": "finished",
        "joint-nano-seed1": "failed",
        "joint-nano-seed2": "finished",
    }
    (why,) = (out / "failures").iterdir()
    assert why.name == "joint-nano-seed1.txt"
    assert "Traceback" in why.read_text() and "joint-nano-seed1 failed" in why.read_text()
    # Tried again by the same command, and forgotten where it succeeds.
    (out / "checkpoints" / "joint-nano-seed1").unlink()
    result = call(out, *few, "--seeds", "0..2")
    assert result.exit_code == 0, result.output
    assert {run["state"] for run in json.loads(result.stdout)["runs"]} == {"finished"}
    assert not list((out / "failures").iterdir())


def test_glance_takes_every_measure_of_a_sweep(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = "--preset glance --scales nano --tasks COPY --levels 1 --steps 2 --batch-size 8"
    result = call(out, *small.split(), "--samples", 8, "--llc-draws", 4, "--threads", 1)
    assert result.exit_code == 0, result.output
    frame = load_records(out)
    assert set(frame["measure"].map(part_of)) == {BEHAVIOUR, *measures()}
    # Of so short chains some diagnostics are not known.
    known = ~frame["measure"].isin(["llc_ess", "llc_localization_effect", "llc_degree"])
    # Nor is everything of so few samples, at a first checkpoint.
    family = [name for name in measures() if not spec_of(name).core]
    known &= ~frame["measure"].map(part_of).isin(family)
    assert not frame.loc[known, "value"].isna().any()
    settings = json.loads((out / "settings.json").read_text())["hashes"].values()
    density = next(told for told in settings if told.get("measure") == "hessian_density")
    assert (density["probes"], density["iterations"]) == (1, 12)
    more = call(out, *small.split(), "--samples", 8, "--llc-draws", 4, "--trace-probes", 7)
    assert more.exit_code == 2 and "trace_probes: 6 there, 7 asked for" in more.output


def test_seeds_as_one_program_are_runs_like_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = "--tasks COPY --levels 1 --steps 4 --checkpoints 3 --samples 16 --batch-size 8"
    small += " --measures rankme --threads 1 --stack always"
    result = call(out, *small.split(), "--seeds", "0,1", "--json")
    assert result.exit_code == 0, result.output
    outcome = json.loads(result.stdout)
    assert [run["run"] for run in outcome["runs"]] == ["joint-nano-seed0", "joint-nano-seed1"]
    for run in outcome["runs"]:
        assert run["state"] == "finished" and run["step"] == 4 and run["seconds"]["training"] > 0
    (group,) = json.loads((out / "settings.json").read_text())["groups"]
    assert group["name"] == "joint-nano-seeds0-1" and group["at_once"] == 2
    # What was kept serves other commands.
    kept = load_model(out, "joint-nano-seed1")
    hashes = load_records(out).query("run == 'joint-nano-seed1' and step == 4")["weights"]
    assert kept.step == 4 and weights_hash(kept.model) == hashes.iloc[0]

    more = ("--seeds", "1..3", "--dry-run", "--json")
    plan = json.loads(call(out, *small.split(), *more).stdout)
    told = {run["run"]: run for run in plan["runs"]}
    assert list(told) == ["joint-nano-seeds0-1", "joint-nano-seeds2-3"]
    done, left = told.values()
    assert (done["checkpoints_left"], left["checkpoints_left"]) == (0, 3)
    assert (left["seed"], left["steps_left"]) == ([2, 3], 4)
    assert left["memory_bytes"] > 1 << 28 and left["total_seconds"] > 0
    shown = call(out, *small.split(), *more[:-1])
    assert "Seeds trained as one program take less than this" in shown.output
    assert [g["name"] for g in json.loads((out / "settings.json").read_text())["groups"]] == [
        group["name"]
    ]


def test_seeds_as_one_program_in_half_precision_are_refused(tmp_path: Path) -> None:
    result = call(tmp_path / "out", *SMALL, "--stack", "always", "--precision", "bf16")
    assert result.exit_code == 2
    assert "--stack always needs --precision fp32, not bf16" in result.output
    assert not (tmp_path / "out").exists()


def test_tf32_without_a_gpu_is_refused(tmp_path: Path) -> None:
    result = call(tmp_path / "out", *SMALL, "--precision", "tf32")
    assert result.exit_code == 2
    assert "precision 'tf32' needs a CUDA device, not cpu" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_learning_rates_are_an_axis_that_grows_and_reports_apart(tmp_path: Path) -> None:
    out = tmp_path / "out"
    few = ("--tasks", "COPY,MOD", "--levels", "1,2", "--steps", "6", "--checkpoints", "3")
    few += ("--samples", "10", "--batch-size", "8", "--dense-until", "4", "--dense-every", "1")
    few += ("--measures", "rankme", "--measured-levels", "1", "--threads", "1", "--seeds", "0,1")
    assert call(out, *few, "--learning-rates", "1e-3").exit_code == 0
    more = json.loads(call(out, *few, "--learning-rates", "3e-4,1e-3", "--json").stdout)
    names = [f"joint-nano-lr{rate}-seed{seed}" for rate in ("0.001", "0.0003") for seed in (0, 1)]
    assert sorted(run["run"] for run in more["runs"]) == sorted(names)
    records = load_records(out)
    assert set(records["run"]) == set(names) and set(records["level"]) == {1}
    last = records[(records["step"] == 6) & (records["measure"] == "answer_logprob")]
    # The rate changes what is learned, and the seeds of one rate are not those of another.
    assert last.groupby(["task", "seed"])["value"].nunique().min() == 2
    model = load_model(out, names[0]).model
    assert weights_hash(model) == records[records["run"] == names[0]]["weights"].iloc[-1]
    refused = call(out, *few, "--learning-rate", "1e-3", "--learning-rates", "1e-3")
    assert refused.exit_code == 2 and "--learning-rate is for all runs" in refused.output
    beyond = call(tmp_path / "other", *few, "--measured-levels", "3")
    assert beyond.exit_code == 2 and "level 3 is not among --levels" in beyond.output
    report = CliRunner().invoke(main, ["report", str(out), "--json"])
    assert report.exit_code == 0 and list(json.loads(report.stdout)["rates"]["claims"]) == [
        "best", "lr0.0003", "lr0.001",
    ]  # fmt: skip
