"""What steps of `gpu.py` run in processes of their own: build, ceilings, sanitizers, a sweep."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.gpu_lines import emit  # noqa: E402

#: Parts of the names of our own kernels, CUDA's and Triton's: torch's are not ours to check.
KERNELS = (
    *("reduce_in_shared_memory", "reduce_in_global_memory", "values_of_tridiagonal"),
    *("_gram_kernel", "_ghost_kernel", "_rank_kernel", "step_kernel", "normals_kernel"),
    *("norm_tangent", "norm_adjoint_tangent", "gelu_tangent", "gelu_adjoint_tangent"),
    *("softmax_hessian_product", "attention_tangent", "queries_adjoint", "keys_adjoint"),
)
COPY, MATRIX = "copy, TB/s read and written", "matrix product {}, TFLOP/s"


def build(*command: str) -> int:
    """Installs the checkout in place, and sees that both modules came of it."""
    report = ROOT / "geomfast" / "_build_report.json"
    report.unlink(missing_ok=True)
    code = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
    if code != 0 or not report.exists():
        return code or 1
    built = json.loads(report.read_text())
    for name, done in built.items():
        emit("value", f"built {name}", built=done["built"], reason=done["reason"])
    return 0 if all(done["built"] for done in built.values()) else 1


def ceilings() -> int:
    """What this device can do at best: the yardstick for every kernel."""
    import torch

    source = torch.randn(2**30, device="cuda")
    target = torch.empty_like(source)
    copied = _median_ms(lambda source=source, target=target: target.copy_(source))
    emit("value", COPY, value=round(2 * source.nbytes / copied / 1e9, 3))
    del source, target
    n = 8192
    for name, dtype, tf32 in (
        ("float64", torch.float64, False),
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(n, n, device="cuda", dtype=torch.float32).to(dtype) for _ in range(2))
        taken = _median_ms(lambda a=a, b=b: a @ b)
        emit("value", MATRIX.format(name), value=round(2 * n**3 / taken / 1e9, 1))
    return 0


def sanitize(check: str) -> int:
    """compute-sanitizer over every kernel's smallest shapes, looking at our kernels only."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        emit("sanitizer", check, outcome="compute-sanitizer is not installed")
        return 0
    options = ["--report-api-errors", "no"] if check == "memcheck" else []
    command = [tool, "--tool", check, "--error-exitcode", "9", *options]
    for kernel in KERNELS:
        command += ["--kernel-name", f"kernel_substring={kernel}"]
    emit("sanitizer", check, outcome="started")
    ran = subprocess.run(
        [*command, sys.executable, "bench/gpu_smallest.py"],
        cwd=ROOT,
        env=os.environ | {"GEOMFAST_SANITIZER": check},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(ran.stdout[-6000:])
    if "Device not supported" in ran.stdout:
        emit("sanitizer", check, outcome="the tool does not support this device here")
        return 0
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", ran.stdout)
    said = summary[-1] if summary else "no summary"
    emit("sanitizer", check, outcome=f"{said}; exit code {ran.returncode}")
    # The program itself may have failed, too.
    return 0 if ran.returncode == 0 and summary else 1


def sweep() -> int:
    """A small sweep on the GPU, from training to records."""
    options = "--preset smoke --tasks COPY,MOD --levels 1 --steps 80 --checkpoints 36 --samples 50"
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "geomfast.cli.main", "sweep", folder, "--device", "cuda"]
        ran = subprocess.run([sys.executable, *command, *options.split()], cwd=ROOT, check=False)
    return ran.returncode


def _median_ms(function: Callable[[], object], repeats: int = 20) -> float:
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


if __name__ == "__main__":
    tasks = {"build": build, "ceilings": ceilings, "sanitize": sanitize, "sweep": sweep}
    sys.exit(tasks[sys.argv[1]](*sys.argv[2:]))
