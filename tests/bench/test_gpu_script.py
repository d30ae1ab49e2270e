"""`bench/gpu.py`: its plan, and that nothing which ends it takes the results so far along."""

import ast
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import gpu, gpu_steps
from bench.gpu_children import KERNELS
from bench.gpu_record import Record
from bench.gpu_run import Runner, clocks

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("gpu_script.py")


@pytest.fixture(autouse=True)
def not_a_worker(monkeypatch):
    """Runs of pytest that these tests start are no workers of the run that they are part of."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)


@pytest.fixture
def script(tmp_path):
    """Starts the script on FILE, with variables; returns the process."""
    started = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path / "gpu.json"), *arguments],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def found(tmp_path):
    """The file as it is now."""
    return lambda: json.loads((tmp_path / "gpu.json").read_text())


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def hanging(tmp_path: Path, found) -> list[int]:
    """Waits for the step that hangs to have reported; the processes that it consists of."""
    until(lambda: (tmp_path / "gpu.json").exists() and "processes" in found()["values"])
    return found()["values"]["processes"]["value"]


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_every_step_is_tried_and_every_result_kept(script, found):
    process = script(HANGS="1.5")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    states = {name: entry["state"] for name, entry in found()["steps"].items()}
    expected = {"build": "passed", "fails": "failed", "times": "passed", "last": "passed"}
    assert states == expected | {"hangs": "out of time"}
    assert list(states) == ["build", "fails", "times", "hangs", "last"]
    failed = found()["steps"]["fails"]
    assert failed["exit code"] == 3 and failed["last lines"] == ["the last word"]
    assert set(found()["comparisons"]) == {"first", "second"}
    # 2e9 bytes in 1 ms are 2 TB/s, half of the ceiling.
    assert found()["comparisons"]["first"]["share of the ceiling"] == {"copy": 0.5}
    assert found()["test counts"] == {"passed": 1, "failed": 0, "error": 0, "skipped": 0}
    assert "second: over torch 2.0" in said
    assert not any(alive(p) for p in found()["values"]["processes"]["value"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_in_mid_step_the_file_holds_what_ended_and_no_process_stays(
    script, found, tmp_path, number
):
    process = script()
    processes = hanging(tmp_path, found)
    assert all(alive(p) for p in processes)
    process.send_signal(number)
    process.wait(60)
    until(lambda: not any(alive(p) for p in processes), 30.0)  # by themselves after 60
    assert set(found()["comparisons"]) == {"first", "second"}
    assert found()["steps"]["times"]["state"] == "passed"
    assert found()["steps"]["hangs"]["state"] == "running"
    assert "last" not in found()["steps"]


def test_started_again_it_goes_on_with_what_is_missing(script, found, tmp_path):
    process = script()
    hanging(tmp_path, found)
    process.kill()
    process.wait(60)
    # As if it had been killed before it could merge what the step reported last.
    line = {"kind": "comparison", "name": "late", "value": {"ratios": {}}}
    with (tmp_path / "gpu.json.lines").open("a") as file:
        file.write(json.dumps(line) + '\n{"kind": "compar')
    again, _ = script(HANGS="1").communicate(timeout=60)
    assert "== build" not in again and "== times" not in again
    assert again.index("== hangs") < again.index("== last") < again.index("== fails")
    assert set(found()["comparisons"]) == {"first", "second", "late"}
    assert found()["steps"]["times"]["state"] == "passed"


def test_results_of_another_machine_are_set_aside_not_mixed(script, found, tmp_path):
    script("--only", "times").communicate(timeout=60)
    assert set(found()["comparisons"]) == {"first"}
    script("--only", "build", DEVICE="another").communicate(timeout=60)
    assert found()["device"] == "another" and found()["comparisons"] == {}
    aside = json.loads((tmp_path / "gpu.json.other-machine").read_text())
    assert set(aside["comparisons"]) == {"first"}


def test_the_budget_ends_it(script, found):
    begin = time.monotonic()
    script("--budget", "5").communicate(timeout=60)
    assert time.monotonic() - begin < 40  # what hangs takes 60
    states = {name: entry["state"] for name, entry in found()["steps"].items()}
    assert states["hangs"] == "out of time" and states["last"] == "not started"


def test_without_a_gpu_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([str(tmp_path / "gpu.json")]) == 1
    assert "no GPU" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_plan_fits_and_says_why(capsys):
    assert gpu.main(["--plan"]) == 0
    said = capsys.readouterr().out
    every = gpu_steps.steps()
    assert all(f"{step.name} " in said and step.why in said for step in every)
    assert all(step.why and 0 < step.expected <= step.limit for step in every)
    names = [step.name for step in every]
    assert len(set(names)) == len(names)
    last = max(i for i, step in enumerate(every) if step.telling)
    assert sum(step.limit for step in every[: last + 1]) <= 420
    assert all(step.telling for step in every[: last + 1])
    checks = ["memcheck", "racecheck", "smoke sweep"]
    assert names[last + 1 : last + 4] == checks
    assert sum(step.expected for step in every[: last + 4]) <= 540


def test_a_plan_that_takes_too_long_is_refused():
    one = gpu_steps.Step("one", ("true",), 400, 500, "too slow", telling=True)
    with pytest.raises(AssertionError, match="500"):
        gpu_steps.plan([one], 540)


def test_every_file_with_a_gpu_test_is_named():
    marked = "pytest.mark." + "gpu"  # in two parts, or this file would be one of them
    files = (ROOT / "tests").rglob("test_*.py")
    found = {str(path.relative_to(ROOT)) for path in files if marked in path.read_text()}
    assert found == set(gpu_steps.GPU_TESTS)


def test_the_telling_cases_are_of_the_sizes_that_they_say():
    for case in gpu_steps.TELLING:
        sizes = importlib.import_module(f"bench.{case.file}").FULL_CUDA
        size = sizes[case.index]
        if case.file == "bench_llc":
            size = (size.scale, size.chains)
        elif case.file == "bench_sgld":
            size = size[0]
        assert size == case.size, case


def test_every_case_is_one_that_pytest_finds_and_a_size_of_the_full_run():
    cases = (*gpu_steps.TELLING, *gpu_steps.REST)
    for case in cases:
        assert case.index < len(importlib.import_module(f"bench.{case.file}").FULL_CUDA)
    ran = subprocess.run(
        [*(sys.executable, "-m", "pytest", "--collect-only"), *(case.selection for case in cases)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = {line for line in ran.stdout.splitlines() if "::" in line}
    assert ran.returncode == 0 and found == {case.selection for case in cases}, ran.stdout


def test_every_telling_case_makes_a_comparison(tmp_path):
    """At its smallest size, on the CPU."""
    operations = sorted({(case.file, case.function) for case in gpu_steps.TELLING})
    lines = tmp_path / "lines"
    options = ["-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*(sys.executable, "-m", "pytest", *options),
         *(f"bench/{file}.py::{function}[0]" for file, function in operations)],
        cwd=ROOT,
        env=os.environ | {"GEOMFAST_GPU_LINES": str(lines), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    results = [json.loads(line) for line in lines.read_text().splitlines()]
    begin = ("gradient gram", "hessian product", "hessian top", "llc", "sgld step", "spectra")
    for name in (*begin, "stacked step"):
        (found,) = (r["value"] for r in results if r["name"].startswith(name))
        assert found["ratios"] and "geomfast" in found["milliseconds"]


def test_sanitizers_look_at_every_kernel_of_ours():
    names = []
    for path in (ROOT / "csrc").glob("*.cu"):
        names += re.findall(
            r"__global__ void __launch_bounds__\([^)]*\)\s+(\w+)\(", path.read_text()
        )
    assert len(names) >= 3
    compiled, called = set(), set()
    for path in (ROOT / "geomfast" / "kernels").rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(function, ast.FunctionDef)
                and function.decorator_list
                and ast.unparse(function.decorator_list[0]).startswith("triton.jit")
            ):
                compiled.add(function.name)
                called |= {
                    call.func.id
                    for call in ast.walk(function)
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
                }
    launched = sorted(compiled - called)  # the others are part of what calls them
    assert len(launched) >= 12
    for name in names + launched:
        assert any(kernel in name for kernel in KERNELS), name


def test_no_clocks_without_nvidia_smi(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert clocks() is None


def test_a_step_that_cannot_start_is_a_failed_one(tmp_path, monkeypatch):
    record = Record(tmp_path / "gpu.json", {"device": "a stand-in", "driver": "", "versions": {}})
    monkeypatch.setattr("bench.gpu_run.sys.executable", str(tmp_path / "nothing"))
    runner = Runner(record, 30.0, lambda line: None)
    assert not runner.run([gpu_steps.Step("one", ("x",), 1, 5, "")])
    assert record.document["steps"]["one"]["state"] == "failed"


PLUGGED = """
import warnings
import pytest
marked = getattr(pytest.mark, "gpu")
warnings.warn("an import of somebody else's package", DeprecationWarning)
warnings.warn("and another", UserWarning)

@marked
def test_passes(): pass

@marked
def test_fails(): assert 1 == 2, "the last word"

@marked
def test_a_warning_of_ours_is_an_error(): warnings.warn("ours")

@marked
def test_what_cusolver_remarks_is_none(): warnings.warn("torch.x: During SVD computation with y")

@marked
def test_a_deprecation_is_none(): warnings.warn("later", DeprecationWarning)

def test_is_not_marked(): pass
"""


@pytest.mark.parametrize("processes", [[], ["-n", "2"]])
def test_counts_and_names_of_failures_come_as_tests_end(tmp_path, processes):
    file, lines = tmp_path / "test_plugged.py", tmp_path / "lines"
    file.write_text(PLUGGED)
    options = ["-o", "filterwarnings=default", "-p", "no:cacheprovider", "-p", "bench.gpu_pytest"]
    ran = subprocess.run(
        [*(sys.executable, "-m", "pytest", "-m", "gpu", "-c", str(ROOT / "pyproject.toml")),
         *options, *processes, "-p", "no:benchmark", str(file)],
        cwd=ROOT,
        env=os.environ | {"GEOMFAST_GPU_LINES": str(lines), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stdout
    results = [json.loads(line) for line in lines.read_text().splitlines()]
    found = {r["name"].rpartition("::")[2]: r["value"] for r in results}
    assert len(results) == len(found) == 5
    assert {name: value["outcome"] for name, value in found.items()} == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_a_warning_of_ours_is_an_error": "failed",
        "test_what_cusolver_remarks_is_none": "passed",
        "test_a_deprecation_is_none": "passed",
    }
    assert any("the last word" in line for line in found["test_fails"]["last lines"])
