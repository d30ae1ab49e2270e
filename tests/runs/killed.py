"""Commands in sessions of their own, killed as the system kills, and who is left of them."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

MARK = "GEOMFAST_TEST_MARK"
#: Seconds that what should happen at once may take where many others use the processors; what it
#: is told from takes minutes.
SOON = 60.0


class Command:
    """A ``geomfast`` command; all that it starts carries a mark in its environment."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", "geomfast.cli.main", *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1", MARK: self.mark, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, within: float = SOON) -> tuple[int, str]:
        """Its exit code and all that it printed; a timeout is a failure."""
        said, _ = self.process.communicate(timeout=within)
        return self.process.returncode, said

    def left(self, within: float = SOON) -> dict[int, str]:
        """The processes with its mark that are there after so many seconds, or as soon as none."""
        deadline = time.monotonic() + within
        while (found := marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def end(self) -> None:
        """Whatever has become of it, nothing of it stays."""
        for pid in marked(self.mark):
            os.kill(pid, signal.SIGKILL)
        with self.process:  # which closes its pipe and waits
            pass


def marked(mark: str) -> dict[int, str]:
    """Processes with a mark in their environment, and their command lines; zombies are none."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    said = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found[int(folder.name)] = said
        except (OSError, ValueError):  # it has ended meanwhile
            continue
    return found
