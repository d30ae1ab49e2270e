"""Options of the benchmarks, and the file that their results go into."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from pathlib import Path

import pytest

# Before torch loads OpenMP, and as the `geomfast` command does: threads that wait for the next
# parallel loop would hold the second core for milliseconds, against whoever has threads of its own.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch

from bench.gpu_lines import emit
from geomfast.kernels.backends import backend_report
from geomfast.machine import processor


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", metavar="FILE", help="write medians, ratios and errors as JSON")
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="what to measure on")


class Results:
    """What one run of the benchmarks measured, keyed by benchmark, size and contender."""

    def __init__(self, path: Path | None):
        self.path = path
        self.milliseconds: dict[str, float] = {}
        self.ratios: dict[str, float] = {}
        self.errors: dict[str, float] = {}
        self.megabytes: dict[str, float] = {}
        self.notes: dict[str, dict[str, str]] = {}

    def add(
        self,
        benchmark: str,
        seconds: dict[str, float],
        ratios: dict[str, tuple[str, str]],
        errors: dict[str, float],
        work: tuple[str, float] | None = None,
        **notes: str,
    ) -> None:
        """Adds one interleaved comparison, and writes all there are: a later one may be cut off.

        Args:
            benchmark: name and size.
            seconds: contender -> median seconds.
            ratios: name of a ratio -> (slower contender, faster contender).
            errors: contender -> largest relative error of its result.
            work: what `gpu.py` says the share of a ceiling by: the ceiling's name, and the bytes
                or operations that "geomfast" cannot do without.
            notes: what explains the comparison: the backend that ran, for one.
        """
        self.notes[benchmark] = notes
        print(f"\n{benchmark}")
        for name, value in seconds.items():
            self.milliseconds[f"{benchmark} / {name}"] = round(1e3 * value, 4)
            error = f"  error {errors[name]:.1e}" if name in errors else ""
            print(f"  {name:<28} {1e3 * value:10.2f} ms{error}")
        for name, error in errors.items():
            self.errors[f"{benchmark} / {name}"] = float(f"{error:.2e}")
        for name, (slower, faster) in ratios.items():
            ratio = seconds[slower] / seconds[faster]
            self.ratios[f"{benchmark} / {name}"] = round(ratio, 3)
            print(f"  {name:<28} {ratio:10.2f} x")
        bound = {"work": {"ceiling": work[0], "amount": work[1]}} if work else {}
        emit(
            "comparison",
            benchmark,
            ratios={name: round(seconds[a] / seconds[b], 3) for name, (a, b) in ratios.items()},
            milliseconds={name: round(1e3 * value, 5) for name, value in seconds.items()},
            errors={name: float(f"{error:.2e}") for name, error in errors.items()},
            notes=notes,
            **bound,
        )
        if self.path:
            self.write(self.path)

    def add_memory(
        self,
        benchmark: str,
        megabytes: dict[str, float],
        ratios: dict[str, float],
        **notes: str,
    ) -> None:
        """Adds what one benchmark measured of memory, in 10^6 bytes, and writes all there are."""
        self.notes[benchmark] = notes
        print(f"\n{benchmark}")
        for name, value in megabytes.items():
            self.megabytes[f"{benchmark} / {name}"] = round(value, 1)
            print(f"  {name:<52} {value:10.1f} MB")
        for name, ratio in ratios.items():
            self.ratios[f"{benchmark} / {name}"] = round(ratio, 3)
            print(f"  {name:<52} {ratio:10.2f} x")
        if self.path:
            self.write(self.path)

    def write(self, path: Path) -> None:
        own = ("geomfast", "torch", "triton", "numpy", "scipy")
        packages = (*own, "cupy-cuda13x", "opacus", "devinterp", "canonical-interp")
        packages += ("pyhessian", "hessian-eigenthings", "curvlinops-for-pytorch")
        document = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": _command(path),
            "sizes": "full" if is_full() else "tiny",
            "machine": {
                "cpu": processor(),
                "cores": os.cpu_count(),
                "backends": {b.name: b.detail for b in backend_report() if b.available},
                "instruction set forced": os.environ.get("GEOMFAST_ISA") or None,
                "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            },
            "versions": {"python": platform.python_version()}
            | {name: _version(name) for name in packages},
            "ratios": self.ratios,
            "median milliseconds": self.milliseconds,
            "relative errors": self.errors,
            "megabytes": self.megabytes,
            "notes": self.notes,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2) + "\n")


def is_full() -> bool:
    """Whether to run the real sizes; otherwise the benchmarks only show that they run."""
    return os.environ.get("GEOMFAST_BENCH") == "full"


def _command(results: Path) -> str:
    """What to type to repeat this run; without the machine's folders."""
    names = ("GEOMFAST_BENCH", "GEOMFAST_ISA", "GEOMFAST_BACKEND")
    variables = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    arguments = [argument.replace(str(results), results.name) for argument in sys.argv[1:]]
    return shlex.join([*variables, "pytest", *arguments])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.fixture(scope="session")
def full() -> bool:
    return is_full()


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    path = request.config.getoption("--results")
    return Results(Path(path) if path else None)


@pytest.fixture
def restore_threads():
    """Leaves the number of torch threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
