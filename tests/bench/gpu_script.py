"""`bench/gpu.py` with steps that need no GPU, to be run and killed."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.gpu import main
from bench.gpu_steps import Step

EMIT = "from bench.gpu_lines import emit; import os, subprocess, sys, time; "
SLEEPER = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"


def step(name: str, code: str, limit: float = 30.0) -> Step:
    return Step(name, (sys.executable, "-c", EMIT + code), 0.1, limit, "a stand-in")


COMPARISON = "ratios={'over torch': 2.0}, milliseconds={'geomfast': 1.0}"
STEPS = [
    step("build", "emit('value', 'copy', value=4.0)"),
    step("fails", "print('the last word'); sys.exit(3)"),
    step("times", f"emit('comparison', 'first', {COMPARISON}, work={{'ceiling': 'copy', "
         "'amount': 2e9})"),
    # Reports one comparison, starts a process of its own, says both numbers, and hangs.
    step("hangs", f"emit('comparison', 'second', {COMPARISON}); p = {SLEEPER}; "
         "emit('value', 'processes', value=[os.getpid(), p.pid]); time.sleep(60)",
         float(os.environ.get("HANGS", "30"))),
    step("last", "emit('test', 'one', outcome='passed')"),
]  # fmt: skip
MACHINE = {"device": os.environ.get("DEVICE", "a stand-in"), "driver": "1", "versions": {}}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], STEPS, lambda: {**MACHINE, "commit": "0"}))
