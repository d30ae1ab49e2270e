"""Runs the steps of `gpu.py`: each in a process group of its own, within its own limit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.gpu_lines import VARIABLE
from bench.gpu_record import Record
from bench.gpu_steps import Step

ROOT = Path(__file__).resolve().parent.parent
WATCH = Path(__file__).with_name("gpu_watch.py")
TICK = 0.1  # seconds between looks at what a step reported
LEAST = 3.0  # seconds: no step is worth starting with less
CLOCKS = "clocks.sm,clocks.mem,temperature.gpu,power.draw"


class Runner:
    """Runs what is missing of some steps while time is left.

    Args:
        record: where results go.
        budget: seconds for all of them.
        say: prints one line.
    """

    def __init__(self, record: Record, budget: float, say: Callable[[str], None]):
        self.record, self.say = record, say
        self.end = time.monotonic() + budget
        self.group: int | None = None

    def run(self, steps: Sequence[Step]) -> bool:
        """Whether every step has passed, now or in an earlier run of the same file."""
        done = self.record.document["steps"]
        for step in self._in_order(steps):
            left = self.end - time.monotonic()
            if left < max(LEAST, min(step.expected, step.limit)):
                done.setdefault(step.name, {"state": "not started"})
                self.say(f"-- {step.name}: not started, {max(left, 0.0):.0f} s are left")
                continue
            self._one(step, min(step.limit, left))
        self.record.write()
        return all(done.get(step.name, {}).get("state") == "passed" for step in steps)

    def _in_order(self, steps: Sequence[Step]) -> list[Step]:
        """What nobody has tried yet, then what failed; the build before all."""
        state = {name: found["state"] for name, found in self.record.document["steps"].items()}
        missing = [s for s in steps if state.get(s.name) not in ("passed", "failed")]
        failed = [s for s in steps if state.get(s.name) == "failed"]
        return sorted(missing + failed, key=lambda step: step.name != "build")

    def _one(self, step: Step, limit: float) -> None:
        entry: dict[str, Any] = {"state": "running", "limit": round(limit, 1), "clocks": [clocks()]}
        self.record.document["steps"][step.name] = entry
        self.record.forget_lines()
        self.record.write()
        self.say(f"== {step.name} (expected {step.expected:.0f} s, at most {limit:.0f})")
        begin = time.monotonic()
        log = self.record.path.with_name(self.record.path.name + ".log")
        try:
            code = self._watched(step, begin + limit, log)
            entry["state"] = "passed" if code == 0 else "out of time" if code is None else "failed"
            entry["exit code"] = code
        except OSError as error:
            entry["state"], entry["error"] = "failed", str(error)
        entry["seconds"] = round(time.monotonic() - begin, 1)
        entry["clocks"].append(clocks())
        if entry["state"] != "passed" and log.exists():
            entry["last lines"] = log.read_text(errors="replace").splitlines()[-25:]
        self._merge()
        self.record.write()
        self.say(f"== {step.name}: {entry['state']} after {entry['seconds']:.0f} s")

    def _watched(self, step: Step, until: float, log: Path) -> int | None:
        """The exit code; None where the limit came first."""
        ours, theirs = os.pipe()
        environment = os.environ | dict(step.environment)
        environment |= {VARIABLE: str(self.record.lines.resolve())}
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
        )
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, str(WATCH), str(ours), *step.command],
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(ours,),
                )
            self.group = process.pid
            look = os.WEXITED | os.WNOHANG | os.WNOWAIT
            while time.monotonic() < until:
                if os.waitid(os.P_PID, process.pid, look) is not None:
                    break
                self._merge()
                time.sleep(TICK)
            else:
                self.kill()
                process.wait()
                return None
            self.kill()  # not yet waited for: its number is still that of its group
            return process.wait()
        finally:
            self.kill()
            self.group = None
            os.close(ours)
            os.close(theirs)

    def kill(self) -> None:
        """Ends the running step, with all that it started."""
        if self.group is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, signal.SIGKILL)

    def _merge(self) -> None:
        for result in self.record.merge():
            value = result["value"]
            if result["kind"] == "test" and value["outcome"] in ("passed", "skipped"):
                continue
            ratios = "; ".join(f"{name} {x}" for name, x in value.get("ratios", {}).items())
            self.say(f"   {result['name']}: {ratios or value.get('outcome', value)}")


def clocks() -> str | None:
    """Clocks, temperature and power as nvidia-smi has them; None without it."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
    try:
        ran = subprocess.run(query, capture_output=True, text=True, check=False, timeout=5)
    except (subprocess.TimeoutExpired, OSError):
        return None
    return ran.stdout.strip() or None
