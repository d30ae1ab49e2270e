"""``geomfast doctor``: reports devices, compilers and backends, and tests every kernel."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from geomfast import __version__
from geomfast.cli.options import json_option


@click.command()
@json_option("Print one JSON object.")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with 1 also if a native module is missing although a compiler for it is here.",
)
def doctor(as_json: bool, strict: bool) -> None:
    """Report what geomfast finds on this machine, and what is missing and why.

    Every kernel is run on small matrices and compared with the float64 reference.

    Exit codes: 0 everything that is here works, 1 a self-test failed, 2 bad usage.
    """
    findings = _findings()
    if as_json:
        click.echo(json.dumps(findings, indent=2))
    else:
        _show(findings)
    broken = [test for test in findings["self_tests"] if not test["passed"]]
    modules, compilers = findings["native_modules"], findings["compilers"]
    lacking = modules["_cpu"] or (compilers["nvcc"] and modules["_cuda"])
    if broken or (strict and lacking):
        sys.exit(1)


def _findings() -> dict[str, Any]:
    import torch

    from geomfast.kernels import backend_report, missing_reason
    from geomfast.kernels.self_test import self_test

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "geomfast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "gpus": gpus,
        "compilers": {name: _version(name) for name in ("c++", "nvcc")},
        "native_modules": {name: missing_reason(name) for name in ("_cpu", "_cuda")},
        "backends": [asdict(backend) for backend in backend_report()],
        "self_tests": [asdict(result) for result in self_test()],
    }


def _version(command: str) -> str | None:
    """The line of a compiler's --version with its version; None without a compiler."""
    path = shutil.which(command)
    if path is None:
        return None
    ran = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    lines = [line.strip() for line in ran.stdout.splitlines() if re.search(r"\d+\.\d+", line)]
    return lines[0] if lines else f"found, but says nothing of its version: {ran.stderr.strip()}"


def _show(findings: dict[str, Any]) -> None:
    console = Console(highlight=False)
    facts = Table(show_header=False, box=None)
    for name in ("geomfast", "python", "torch", "cpu"):
        facts.add_row(name, findings[name])
    facts.add_row("gpu", ", ".join(findings["gpus"]) or "none that torch can use")
    for name, version in findings["compilers"].items():
        facts.add_row(name, version or "not found")
    console.print(facts)

    backends = Table(title="Backends", title_justify="left")
    for heading in ("backend", "available", "detail"):
        backends.add_column(heading)
    for backend in findings["backends"]:
        backends.add_row(
            backend["name"], "yes" if backend["available"] else "no", backend["detail"]
        )
    console.print(backends)

    tests = Table(title="Self-test against the float64 reference", title_justify="left")
    for heading in ("kernel", "backend", "largest relative error", "allowed", "result"):
        tests.add_column(heading)
    for test in findings["self_tests"]:
        tests.add_row(
            test["kernel"],
            test["backend"],
            f"{test['error']:.1e}",
            f"{test['allowed']:.1e}",
            "passed" if test["passed"] else "FAILED",
        )
    console.print(tests)
