"""Everything only a GPU can show, in one script: build, tests, race checks, timings, one JSON.

    make gpu            # or: python bench/gpu.py [FILE] [--only STEP]...

Works from a fresh checkout without a network, given torch, setuptools, pybind11 and nvcc. Exits 1,
saying why, where there is no GPU or a step fails; every step is tried and the JSON is written in
either case, once the GPU is known.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SMALLEST = ["bench/gpu_smallest.py"]
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
SANITIZER_SECONDS = 150
STEPS = ("build", "tests", "sanitizers", "ceilings", "benchmarks")


def main() -> int:
    """Runs all steps; 0 when every one passed."""
    import torch

    parser = argparse.ArgumentParser(description="Build, test, check and time on this GPU.")
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "bench/results/gpu.json")
    parser.add_argument(
        "--only", action="append", choices=STEPS, help="one step, may be repeated; adds to FILE"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        built = torch.version.cuda or "without CUDA"
        print(f"no GPU: torch {torch.__version__} (built {built}) sees none; nothing measured")
        return 1
    outcome = _this_machine()
    if options.only and options.file.exists():
        earlier = json.loads(options.file.read_text())
        same = all(earlier.get(name) == outcome[name] for name in ("device", "driver", "versions"))
        outcome = earlier | {"date": outcome["date"]} if same else outcome
    outcome["file"] = options.file
    for name in options.only or STEPS:
        print(f"== {name}", flush=True)
        begin = time.perf_counter()
        passed = globals()[name](outcome)
        said = "passed" if passed else "FAILED"
        outcome["steps"][name] = said
        print(f"== {name} {said} after {time.perf_counter() - begin:.0f} s", flush=True)
        _write(outcome)
    print(f"== {options.file}")
    return 0 if set(outcome["steps"].values()) == {"passed"} else 1


def _this_machine() -> dict[str, Any]:
    import torch

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(),
        "driver": _driver(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "nvcc": _nvcc(),
        },
        "steps": {},
    }


def _write(outcome: dict[str, Any]) -> None:
    file: Path = outcome["file"]
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in outcome.items() if name != "file"}
    file.write_text(json.dumps(kept, indent=2) + "\n")


def build(outcome: dict[str, Any]) -> bool:
    """Installs the checkout in place, and sees that the CUDA module came of it."""
    install = ["-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "-e", "."]
    report = ROOT / "geomfast" / "_build_report.json"
    if _python(install) != 0 or not report.exists():
        return False
    built = {name: done["built"] for name, done in json.loads(report.read_text()).items()}
    outcome["built"] = built
    return all(built.values())


def tests(outcome: dict[str, Any]) -> bool:
    """The tests that need a GPU."""
    return _python(["-m", "pytest", "tests", "-m", "gpu"]) == 0


def sanitizers(outcome: dict[str, Any]) -> bool:
    """compute-sanitizer over every kernel's smallest shapes; without the tool, only the run."""
    outcome["sanitizers"] = found = {}
    if _python(SMALLEST) != 0:
        return False
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        found["compute-sanitizer"] = "not found"
        return True
    passed = True
    for check in SANITIZERS:
        options = ["--report-api-errors", "no"] if check == "memcheck" else []
        command = [tool, "--tool", check, *options, "--error-exitcode", "9", sys.executable]
        try:
            ran = subprocess.run(
                [*command, *SMALLEST],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
                timeout=SANITIZER_SECONDS,
            )
        except subprocess.TimeoutExpired:
            found[check], passed = f"not done after {SANITIZER_SECONDS} s", False
            continue
        if "Device not supported" in ran.stdout + ran.stderr:
            found[check] = "the tool does not support this device here"
            continue
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", ran.stdout)
        found[check] = f"{summary[-1] if summary else 'no summary'}; exit code {ran.returncode}"
        print(f"{check}: {found[check]}", flush=True)
        if ran.returncode != 0 or not summary:  # the program itself may have failed, too
            passed = False
            print(ran.stdout[-3000:], ran.stderr[-2000:])
    return passed


def ceilings(outcome: dict[str, Any]) -> bool:
    """What this device can do at best: the yardstick for every kernel."""
    import torch

    source = torch.randn(2**30, device="cuda")
    target = torch.empty_like(source)
    copied = _median_ms(lambda source=source, target=target: target.copy_(source))
    found = {"copy, TB/s read and written": round(2 * source.nbytes / copied / 1e9, 3)}
    n = 8192
    for name, dtype, tf32 in (
        ("float64", torch.float64, False),
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
        taken = _median_ms(lambda a=a, b=b: a @ b)
        found[f"matrix product {name}, TFLOP/s"] = round(2 * n**3 / taken / 1e9, 1)
    torch.backends.cuda.matmul.allow_tf32 = False
    outcome["ceilings"] = found
    for name, value in found.items():
        print(f"{name}: {value}")
    return True


def benchmarks(outcome: dict[str, Any]) -> bool:
    """Every benchmark on the GPU, at its full sizes; what was done stays if it is cut off."""
    results = outcome["file"].with_suffix(".benchmarks.json")
    command = ["-m", "pytest", "bench", "--device", "cuda", "--results", str(results), "-s"]
    code = _python(command, {"GEOMFAST_BENCH": "full"})
    if results.exists():
        measured = json.loads(results.read_text())
        numbers = ("ratios", "median milliseconds", "relative errors", "megabytes")
        kept = ("versions", *numbers, "notes")
        outcome["benchmarks"] = {name: measured[name] for name in kept}
        results.unlink()
    return code == 0


def _python(arguments: list[str], environment: dict[str, str] | None = None) -> int:
    command = [sys.executable, *arguments]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | (environment or {}), check=False)
    return ran.returncode


def _median_ms(function: Any, repeats: int = 20) -> float:
    import torch

    times = []
    for _ in range(repeats + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[3:])


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return None
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or None


def _nvcc() -> str | None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    ran = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    versions = re.findall(r"release [\d.]+, V([\d.]+)", ran.stdout)
    return versions[0] if versions else None


if __name__ == "__main__":
    sys.exit(main())
