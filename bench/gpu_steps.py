"""The steps of `gpu.py`, in the order of evidence, with what they are expected to take.

Expected seconds are arithmetic, not measurements: processes start in 6 to 8 s (importing torch,
the first CUDA context), Triton compiles some 0.5 s a variant, a launch-bound product or step takes
2 to 4 ms, torch 2.11's `svdvals` and `eigvalsh` some 6 to 25 ms a matrix of 200, and kernels what
their instruction counts say (each kernel's README). Not yet measured on a GPU.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

#: Files with a test under the marker `gpu`: nothing else is collected.
GPU_TESTS = (
    "tests/test_gpu.py",
    "tests/test_replay.py",
    "tests/kernels/test_spectra.py",
    "tests/estimators/curvature/test_gpt.py",
    "tests/sweep/test_sharing.py",
    "tests/sweep/test_running_groups.py",
    "tests/runs/test_states.py",
)
SANITIZER_SECONDS = 60.0
TELLING_WITHIN = 420.0  # seconds, to the end of the last telling case


@dataclass(frozen=True)
class Step:
    """One process to run.

    Attributes:
        name: by which the file knows it.
        command: what runs, in the repository's root.
        expected, limit: seconds; at the limit its process group is killed.
        why: it stands where it does.
        environment: variables on top of ours.
        telling: whether it belongs to what has to end within `TELLING_WITHIN`.
    """

    name: str
    command: tuple[str, ...]
    expected: float
    limit: float
    why: str
    environment: Mapping[str, str] = field(default_factory=dict)
    telling: bool = False


@dataclass(frozen=True)
class Case:
    """One benchmark at one size: `bench_OPERATION.py::FUNCTION[index]`.

    Attributes:
        size: what `FULL_CUDA[index]` of the file has to be.
    """

    name: str
    file: str
    function: str
    index: int
    size: object
    expected: float
    limit: float
    why: str

    @property
    def selection(self) -> str:
        return f"bench/{self.file}.py::{self.function}[{self.index}]"

    def step(self, telling: bool) -> Step:
        command = (
            *(sys.executable, "-m", "pytest", self.selection, "--device", "cuda", "-s"),
            *("-p", "no:cacheprovider", "-o", "filterwarnings=default"),
        )
        environment = {"GEOMFAST_BENCH": "full"}
        return Step(self.name, command, self.expected, self.limit, self.why, environment, telling)


TELLING = (
    Case("spectra 600 x (200 x 768)", "bench_spectra", "bench_spectra", 6, (600, 200, 768), 18, 30,
         "the paper's own shape: ours 4 ms; rivals on 24 matrices, some 0.5 s a call, 2 s each"),
    Case("spectra 24 x (1000 x 768)", "bench_spectra", "bench_spectra", 7, (24, 1000, 768), 20, 30,
         "clusters: ours 25 ms; rivals some 3 s a call"),
    Case("sgld 100M", "bench_sgld", "bench_sgld", 5, "100M", 12, 20,
         "1.6 GB a step, 0.5 ms; the share of a copy in the same run"),
    Case("gradient gram nano, T=8", "bench_gradient_gram", "bench_gradient_gram", 0,
         ("nano", 8), 15, 20, "the ghost product; rivals under 1 s a call"),
    Case("gradient gram nano, T=64", "bench_gradient_gram", "bench_gradient_gram", 1,
         ("nano", 64), 15, 20, "the stored product, where vmap(grad) is strongest"),
    Case("gradient gram micro, T=8", "bench_gradient_gram", "bench_gradient_gram", 2,
         ("micro", 8), 18, 25, "6 times the parameters; no svdvals of N x P"),
    Case("hessian nano", "bench_hessian", "bench_hessian", 0,
         ("geomfast's GPT", "nano", 16), 28, 40,
         "launch-bound: 3 ms a product, at most 400 of them a search, a few searches"),
    Case("llc 64 nano chains", "bench_llc", "bench_llc", 0, ("nano", 64), 25, 35,
         "100 steps of 64 chains; one after the other on 4 chains, 4 ms a step, and scaled"),
    Case("stacked 64 members", "bench_stacked", "bench_stacked", 0, (2, 128, 64, 8, 16), 22, 30,
         "one after the other: 64 steps of 3 ms; captures of 65 programs"),
)  # fmt: skip

_WHY = "another size of an operation that has had its telling case"
REST = (
    *(Case(f"spectra case {i}", "bench_spectra", "bench_spectra", i, None, 18, 40, _WHY)
      for i in (2, 8, 0, 5, 4, 1, 3)),
    *(Case(f"hessian case {i}", "bench_hessian", "bench_hessian", i, None, 30, 60, _WHY)
      for i in (1,)),
    *(Case(f"sgld case {i}", "bench_sgld", "bench_sgld", i, None, 12, 20, _WHY)
      for i in (1, 2, 3, 4, 0)),
    *(Case(f"gradient gram case {i}", "bench_gradient_gram", "bench_gradient_gram", i, None,
           20, 40, _WHY) for i in (3, 4, 5)),
    *(Case(f"stacked case {i}", "bench_stacked", "bench_stacked", i, None, 25, 45, _WHY)
      for i in (1, 2)),
    *(Case(f"llc case {i}", "bench_llc", "bench_llc", i, None, 25, 45, _WHY) for i in (1, 3)),
    Case("llc in gradients", "bench_llc", "bench_llc_in_gradients", 0, None, 25, 45, _WHY),
)  # fmt: skip


def steps() -> list[Step]:
    """All of them, in order."""
    python = (sys.executable,)
    install = "-m pip install -q --no-index --no-build-isolation --no-deps -e ."
    pytest = "-m pytest -m gpu -p no:cacheprovider -p no:benchmark -p bench.gpu_pytest"
    return [
        Step("build", (*python, "bench/gpu_children.py", "build", *install.split()), 25, 40,
             "nothing else means anything without the CUDA module; nvcc for two architectures",
             telling=True),
        Step("smallest", (*python, "bench/gpu_smallest.py"), 25, 35,
             "every kernel ran and agrees with the CPU: the most evidence a second; "
             "some 40 Triton variants to compile", telling=True),
        Step("tests", (*python, *pytest.split(), *_processes(), "-o", "filterwarnings=default",
                       *GPU_TESTS), 70, 80,
             "all else that can be wrong; in 8 processes, a third of it start and compilation",
             telling=True),
        Step("ceilings", (*python, "bench/gpu_children.py", "ceilings"), 9, 12,
             "what the timings are held against: 23 copies of 4 GB, products of 8192, 0.5 s",
             telling=True),
        *(case.step(telling=True) for case in TELLING),
        *(Step(tool, (*python, "bench/gpu_children.py", "sanitize", tool), 50, SANITIZER_SECONDS,
               "races and strides beyond the end do not show in timings; our kernels only")
          for tool in ("memcheck", "racecheck")),
        Step("smoke sweep", (*python, "bench/gpu_children.py", "sweep"), 30, 40,
             "training, measuring and recording together on the GPU"),
        *(case.step(telling=False) for case in REST),
    ]  # fmt: skip


def _processes() -> tuple[str, ...]:
    import importlib.util

    return ("-n", "8") if importlib.util.find_spec("xdist") else ()


def plan(steps: list[Step], budget: float) -> list[str]:
    """What `--plan` prints.

    Raises:
        AssertionError: the limits up to and with the telling cases exceed `TELLING_WITHIN`.
    """
    lines, expected, limit = [], 0.0, 0.0
    lines.append(f"{'step':<30} {'expected':>8} {'limit':>6} {'so far':>7} {'at most':>8}  why")
    for step in steps:
        expected, limit = expected + step.expected, limit + step.limit
        fits = "" if expected <= budget else " (while time is left)"
        lines.append(
            f"{step.name:<30} {step.expected:>6.0f} s {step.limit:>4.0f} s {expected:>5.0f} s "
            f"{limit:>6.0f} s  {step.why}{fits}"
        )
    telling = sum(step.limit for step in steps if step.telling)
    assert telling <= TELLING_WITHIN, f"telling cases may take {telling} s"
    lines.append(f"to the end of the telling cases: at most {telling:.0f} s of {budget:.0f} s")
    lines.append("expected seconds are arithmetic (bench/gpu_steps.py), not measurements")
    return lines
