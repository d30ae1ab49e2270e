"""Everything only a GPU can show, in one script: build, tests, timings, race checks, one JSON.

    make gpu            # or: python bench/gpu.py [FILE] [--budget SECONDS] [--only STEP]...

Works from a fresh checkout without a network, given torch, setuptools, pybind11 and nvcc. Every
step runs in a process group of its own, within its own limit, and every result is in FILE as soon
as it is there, whatever ends this script. Started again with the same FILE on the same kind of
machine it goes on with what is missing, then with what failed. Exits 1, saying why, where there is
no GPU, or a step has not passed.
"""

import argparse
import datetime
import importlib.util
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

#: Packages that the benchmarks compare with where they are there; none is fetched.
PEERS = ("cupy", "opacus", "pyhessian", "hessian_eigenthings", "curvlinops", "devinterp",
         "canonical_interp")  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import gpu_steps  # noqa: E402
from bench.gpu_record import Record  # noqa: E402
from bench.gpu_run import Runner  # noqa: E402
from bench.gpu_steps import Step  # noqa: E402


def main(
    arguments: Sequence[str] | None = None,
    steps: Sequence[Step] | None = None,
    machine: Callable[[], dict[str, Any] | None] | None = None,
) -> int:
    """Runs what is missing; 0 when every step has passed.

    Args:
        arguments: of the command line.
        steps: instead of all of them.
        machine: instead of asking torch: what describes the device, None where there is none.
    """
    every = list(gpu_steps.steps() if steps is None else steps)
    parser = argparse.ArgumentParser(description="Build, test, time and check on this GPU.")
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "bench/results/gpu.json")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds (default 540)")
    parser.add_argument("--plan", action="store_true", help="print the steps and their seconds")
    parser.add_argument(
        "--only", action="append", metavar="STEP", choices=[step.name for step in every],
        help="one step, again if it has been run; may be repeated",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.plan:
        print("\n".join(gpu_steps.plan(every, options.budget)))
        return 0
    found = (machine or this_machine)()
    if found is None:
        return 1
    record = Record(options.file, found)
    for name in options.only or ():
        record.document["steps"].pop(name, None)
    runner = Runner(record, options.budget, lambda line: print(line, flush=True))

    def stop(number: int, frame: FrameType | None) -> None:
        runner.kill()
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    passed = runner.run([s for s in every if not options.only or s.name in options.only])
    counts = record.document["test counts"]
    print(f"== tests: {', '.join(f'{n} {kind}' for kind, n in counts.items())}")
    print(f"== {options.file}")
    return 0 if passed else 1


def this_machine() -> dict[str, Any] | None:
    """The GPU that torch sees, and the versions; None, said why, where it sees none."""
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda or "without CUDA"
        print(f"no GPU: torch {torch.__version__} (built {built}) sees none; nothing measured")
        return None
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _said("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "device": torch.cuda.get_device_name(),
        "left out, not installed": [x for x in PEERS if importlib.util.find_spec(x) is None],
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "nvcc": (re.findall(r"V([\d.]+)", _said("nvcc", "--version") or "") or [None])[0],
        },
    }


def _said(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout.strip() or None


if __name__ == "__main__":
    sys.exit(main())
