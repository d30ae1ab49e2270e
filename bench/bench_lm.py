"""Behaviour and RankMe of one checkpoint of Pythia's shape, against what anyone would write.

The plain way runs every choice as a row of its own, padded, with all logits, and the prompts once
more for their hidden states. Each run is a process of its own (`lm_pass.py`), the two in turn, on
one thread; seconds are of the processor, without loading, and memory is the highest of the whole
process, weights and libraries included. Values have to agree before anything is written.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 3
FULL = ("70m", "160m", "410m")


def measured(call: str, size: str, few: int | None) -> dict[str, Any]:
    """What `lm_pass.py` prints."""
    command = [sys.executable, "-m", "bench.lm_pass", call, size, *([str(few)] if few else [])]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("index", range(len(FULL)))
def bench_lm(results, full, device, index):
    pytest.importorskip("transformers")
    if device != "cpu":
        pytest.skip("passes are compared on a CPU")
    if not full and index:
        pytest.skip("a size of the full run")
    size, few = (FULL[index], None) if full else ("tiny", 4)
    runs: dict[str, list[dict[str, Any]]] = {"geomfast": [], "plain": []}
    for number in range(ROUNDS if full else 1):
        for call in list(runs)[:: -1 if number % 2 else 1]:
            runs[call].append(measured(call, size, few))
    ours, theirs = (runs[call][0]["values"] for call in runs)
    apart = {name: abs(ours[name] - value) / max(abs(value), 1) for name, value in theirs.items()}
    worst = max(apart.values())
    assert worst < 1e-4, max(apart, key=lambda name: apart[name])
    seconds = {call: median(run["seconds"] for run in those) for call, those in runs.items()}
    peaks = {call: median(run["peak"] for run in those) / 1e6 for call, those in runs.items()}
    name = f"language model: {size}, built-in sets"
    tokens = str(runs["plain"][0]["tokens"])
    over = {"over the plain way": ("plain", "geomfast")}
    results.add(name, seconds, over, {"geomfast": worst}, tokens=tokens)
    results.add_memory(
        f"{name}, memory",
        peaks,
        {"over the plain way": peaks["plain"] / peaks["geomfast"]},
        tokens=tokens,
    )
