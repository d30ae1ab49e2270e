"""Everything only a GPU can show, in one script: build, tests, timings, one JSON.

    make gpu            # or: python bench/gpu.py [FILE]

Works from a fresh checkout without a network, given torch, setuptools and pybind11.  Exits 1,
saying why, where there is no GPU or something fails; the JSON is written in either case once the
GPU is known.
"""

import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ["-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "-e", "."]


def main() -> int:
    """Run all steps; 0 when every one passed."""
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda or "without CUDA"
        print(f"no GPU: torch {torch.__version__} (built {built}) sees none; nothing measured")
        return 1
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "bench" / "results" / "gpu.json"
    outcome = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        },
        "steps": {},
    }
    steps = {
        "build": BUILD,
        "tests": ["-m", "pytest", "tests", "-m", "gpu"],
    }
    for name, command in steps.items():
        print(f"== {name}", flush=True)
        code = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
        outcome["steps"][name] = "passed" if code == 0 else f"failed with exit code {code}"
    if outcome["steps"]["build"] == "passed":
        print("== timings", flush=True)
        outcome["spectra"] = time_spectra()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(outcome, indent=2) + "\n")
    print(f"== {target}")
    return 0 if set(outcome["steps"].values()) == {"passed"} else 1


def time_spectra() -> list[dict[str, float | str]]:
    """Ours against looped float32 `svdvals` on the GPU, interleaved, at two sizes."""
    import torch

    sys.path.insert(0, str(ROOT))
    from bench.interleave import interleave
    from geomfast.kernels.spectra import singular_values
    from geomfast.kernels.spectra.op import backend_for

    rows = []
    for batch, n, d in ((24, 200, 128), (24, 200, 768)):
        x = torch.randn(batch, n, d, device="cuda")

        def ours(x: torch.Tensor = x) -> None:
            singular_values(x)
            torch.cuda.synchronize()

        def looped(x: torch.Tensor = x) -> None:
            for matrix in x:
                torch.linalg.svdvals(matrix)
            torch.cuda.synchronize()

        seconds = interleave({"geomfast": ours, "svdvals looped": looped}, rounds=5)
        ratio = seconds["svdvals looped"] / seconds["geomfast"]
        size = f"{batch} x ({n} x {d})"
        rows.append({"size": size, "backend": backend_for(x), "over svdvals": ratio, **seconds})
        print(f"{size}: {ratio:.1f}x over looped svdvals")
    return rows


if __name__ == "__main__":
    sys.exit(main())
