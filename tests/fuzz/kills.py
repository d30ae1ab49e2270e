"""Commands killed with SIGKILL at random moments, resumed, and compared with one left alone.

``python -m tests.fuzz.kills FIRST COUNT`` kills so many commands: each seed kills one kind of work
a few times from its start on, then lets it end, and compares every record with those of work that
nobody has killed; ten seconds after a kill no process may be left.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from geomfast.records import load_records
from tests.fuzz.folders import POPULATION, SWEEP
from tests.runs.killed import MARK, Command, marked

KILLS = 5
_KEYS = ["run", "step", "task", "level", "layer", "measure"]
_TRACK = """
import sys, torch, geomfast as gf
from torch import nn
torch.manual_seed(0); torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
x = torch.randn(12, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss_fn = lambda model, x: model(x).square().mean(1)
tracker = gf.Tracker(model, loss_fn, x, measures=("rankme", "fisher_rank"), layers=["1", "3"],
                     out=sys.argv[1], max_overhead=None, every=1)
tracker.step(0)
for step in range(1, 60):
    optimizer.zero_grad(); loss_fn(model, x).mean().backward(); optimizer.step()
    tracker.step(step)
tracker.close()
"""
KINDS = ("alone", "stacked", "two workers", "population", "measure", "tracker")


class Script(Command):
    """A program of somebody who uses a tracker."""

    def __init__(self, *arguments: str) -> None:
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def start(kind: str, out: Path, source: Path) -> Command:
    """The command of a kind of work."""
    if kind == "tracker":
        return Script("-c", _TRACK, str(out))
    if kind == "measure":
        return Command("measure", source, "--out", out, "--measures", "rankme", "--threads", 1)
    if kind == "population":
        return Command("population", out, *POPULATION, "--state-every", 0)
    stack = "always" if kind == "stacked" else "never"
    workers = ("--workers", 2) if kind == "two workers" else ()
    return Command("sweep", out, *SWEEP, "--stack", stack, "--state-every", 0, *workers)


def finished(kind: str, out: Path, source: Path) -> pd.DataFrame:
    """The records of work that is let end."""
    command = start(kind, out, source)
    try:
        code, said = command.ended(within=180.0)
    finally:
        command.end()
    assert code == 0, said
    found = load_records(out).drop(columns="seconds")
    found = found[~found["measure"].isin(["tracker_overhead", "overhead"])]
    return found.sort_values(_KEYS, ignore_index=True)


def killed(kind: str, out: Path, source: Path, draw: random.Random, longest: float) -> list[str]:
    """What is left ten seconds after a kill at a random moment; half of them within two seconds."""
    command = start(kind, out, source)
    try:
        time.sleep(draw.uniform(0.0, 2.0) if draw.random() < 0.5 else draw.uniform(0.0, longest))
        if draw.random() < 0.5:
            command.send(signal.SIGKILL)
        else:  # one of all that belong to it
            each = sorted(marked(command.mark)) or [command.process.pid]
            os.kill(draw.choice(each), signal.SIGKILL)
            command.send(signal.SIGKILL)
        return list(command.left(within=10.0).values())
    except ProcessLookupError:
        return []
    finally:
        command.end()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int, help="commands to kill, five of them for every seed")
    chosen = parser.parse_args()
    kills = orphans = differences = 0
    with tempfile.TemporaryDirectory() as root:
        source = Path(root) / "source"
        straight, longest = {}, {}
        straight["alone"] = finished("alone", source, source)
        for kind in KINDS:
            begun = time.monotonic()
            straight[kind] = finished(kind, Path(root) / f"straight {kind}", source)
            longest[kind] = time.monotonic() - begun
        for seed in range(chosen.first, chosen.first + -(-chosen.count // KILLS)):
            draw = random.Random(seed)
            kind = KINDS[seed % len(KINDS)]
            out = Path(root) / f"killed {seed}"
            for _ in range(KILLS):
                kills += 1
                if left := killed(kind, out, source, draw, longest[kind]):
                    orphans += len(left)
                    print(f"seed {seed}, {kind}: left 10 s later: {left}", flush=True)
            try:
                now = finished(kind, out, source)
                same = now.equals(straight[kind])
            except Exception as error:
                print(f"seed {seed}, {kind}: {type(error).__name__}: {error}", flush=True)
                same = False
            if not same:
                differences += 1
                print(f"seed {seed}, {kind}: other records than those of work left alone")
            shutil.rmtree(out)
            print(f"{kills} kills, {differences} differences, {orphans} orphans", flush=True)


if __name__ == "__main__":
    main()
