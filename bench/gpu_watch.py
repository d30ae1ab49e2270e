"""Runs a command, and ends the whole process group when whoever started it is gone.

    gpu_watch.py DESCRIPTOR COMMAND...

DESCRIPTOR is the reading end of a pipe whose other end the starter holds and never writes to: it
ends when the starter does, by SIGKILL too. Started as the leader of its own process group.
"""

import os
import signal
import subprocess
import sys
import threading


def end_with(descriptor: int) -> None:
    os.read(descriptor, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start()
    code = subprocess.run(sys.argv[2:], check=False).returncode
    # os._exit: the thread still reads. A signal's number as a shell reports it.
    os._exit(code if code >= 0 else 128 - code)
