"""What machine this is, in the words a results file needs."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from geomfast import __version__


def processor() -> str:
    """Model of the processor; virtual machines hide it, hence family and model number too."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            fields[key.strip()] = value.strip()
    if "model name" not in fields:
        return platform.machine()
    number = f"family {fields.get('cpu family')}, model {fields.get('model')}"
    return f"{fields['model name']} ({number})"


def usable_cores() -> int:
    """Cores this process may run on, which a scheduler may have made fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> str:
    """Processor, cores and system in one line."""
    return f"{processor()}, {usable_cores()} cores, {platform.system()}"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {"geomfast": __version__, "python": platform.python_version(), **packages}
