"""Peak memory of the gradient Gram matrix, next to the model's own forward and backward pass.

Every number is of a process of its own (`gradient_memory.py`): what a call adds to what was in use
before it. N = 200 samples of T tokens, one thread. Beside it stand the N x P float32 numbers that
the usual way stores, and the share of the largest parameter in them. The same model at two lengths
shows what ours grows with: the activations, not P.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FULL = [("nano", 28), ("micro", 28), ("small", 4), ("small", 28), ("large", 28)]
TINY = [("nano", 4)]
PASS, OURS, UNCHECKED = "forward+backward", "gradient_gram", "gradient_gram unchecked"
STORED = "vmap(grad), float64 gram"  # at nano only: it stores N x P


def measure(call: str, scale: str, samples: int, length: int, device: str) -> dict[str, int]:
    """What `gradient_memory.py` prints."""
    arguments = [call, scale, str(samples), str(length), device]
    command = [sys.executable, "-m", "bench.gradient_memory", *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("index", range(len(FULL)))
def bench_gradient_memory(results, full, device, index):
    sizes = FULL if full else TINY
    if index >= len(sizes):
        pytest.skip("a size of the full run")
    (scale, length), samples = sizes[index], 200 if full else 8
    calls = [PASS, OURS]
    if full:
        calls += [UNCHECKED, STORED] if scale == "nano" else [UNCHECKED]
    # Large ones in turn, for they might not fit side by side; the tiny ones at once, to be quick.
    with ThreadPoolExecutor(1 if full else len(calls)) as pool:
        measured = list(pool.map(lambda c: measure(c, scale, samples, length, device), calls))
    base = measured[0]
    added = {c: m["peak"] - m["before"] for c, m in zip(calls, measured, strict=True)}
    stored = 4 * samples * base["parameters"]
    numbers = {"in use before": base["before"]}
    numbers |= {f"{call}: added at its peak": n for call, n in added.items()}
    numbers |= {f"{call}: extra above {PASS}": added[call] - added[PASS] for call in calls[1:]}
    numbers["N x P float32"] = stored
    numbers["N x largest parameter float32"] = 4 * samples * base["largest"]
    where = "" if device == "cpu" else f" on {device}"
    results.add_memory(
        f"gradient memory{where} {samples} x T={length}, {scale}",
        {name: n / 1e6 for name, n in numbers.items()},
        # At tiny sizes the extra may drown in what else a process does, and even be negative.
        {"N x P over extra": stored / max(added[OURS] - added[PASS], 1)} if full else {},
        parameters=str(base["parameters"]),
    )
