"""Which backends exist on this machine, and why the others do not."""

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import json
import os
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

NAMES = ("reference", "torch", "cpu", "triton", "cuda")
ENVIRONMENT_VARIABLE = "GEOMFAST_BACKEND"


class BackendError(RuntimeError):
    """The backend asked for does not exist here or does not support the input."""


@dataclass(frozen=True)
class Backend:
    """One line of the backend report.

    Attributes:
        name: as accepted by `GEOMFAST_BACKEND`.
        available: whether it can run on this machine.
        detail: what is in use (version, instruction set), or the reason why it is missing.
    """

    name: str
    available: bool
    detail: str


class MissingModule:
    """Stands in for a native module that did not load; explains itself when it is used."""

    def __init__(self, name: str, reason: str):
        self._name = name
        self.reason = reason

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("__"):  # protocol look-ups (copy, pickle) must fail as usual
            raise AttributeError(attribute)
        raise BackendError(f"{self._name} is not available: {self.reason}")


@functools.cache
def native_module(name: str) -> Any:
    """The native module `geomfast.<name>`, or a `MissingModule` that says why it is missing."""
    try:
        return importlib.import_module(f"geomfast.{name}")
    except ImportError as error:
        reason = _build_failure(f"geomfast.{name}") or f"{type(error).__name__}: {error}"
        return MissingModule(f"geomfast.{name}", reason)


def missing_reason(name: str) -> str:
    """Why the native module `geomfast.<name>` is missing; empty if it is there."""
    module = native_module(name)
    return module.reason if isinstance(module, MissingModule) else ""


def interpreting_triton() -> bool:
    """Whether Triton kernels run in its interpreter, on CPU tensors: for tests."""
    wanted = os.environ.get("TRITON_INTERPRET") == "1"
    return wanted and importlib.util.find_spec("triton") is not None


@functools.cache
def triton_missing() -> str:
    """Why Triton kernels cannot run on a GPU here; empty if they can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


@functools.cache
def cuda_missing() -> str:
    """Why the native CUDA kernels cannot run here; empty if they can."""
    if missing := missing_reason("_cuda"):
        return missing
    if not torch.cuda.is_available():
        return "built, but torch sees no CUDA device"
    refused = native_module("_cuda").missing()
    return f"built, but CUDA says: {refused}" if refused else ""


def missing_on_device(backend: str) -> str:
    """Why a compiled backend cannot run on tensors of its own device; empty if it can."""
    if backend == "cpu":
        return missing_reason("_cpu")
    return triton_missing() if backend == "triton" else cuda_missing()


def _build_failure(module: str) -> str:
    """What setup.py wrote down when it could not build the module; empty if nothing."""
    report = importlib.resources.files("geomfast") / "_build_report.json"
    try:
        outcome = json.loads(report.read_text())[module]
    except (OSError, ValueError, KeyError):
        return ""
    return "" if outcome["built"] else f"it was not built at install time. {outcome['reason']}"


def backend_report() -> list[Backend]:
    """What is available on this machine, and why not where it is not.

    Returns:
        One `Backend` for each name that `GEOMFAST_BACKEND` accepts.
    """
    missing = missing_reason("_cpu")
    threads = f"{torch.get_num_threads()} threads"
    cpu = missing or f"C++, instruction set {native_module('_cpu').isa()}, {threads}"
    without_triton = triton_missing()
    triton = without_triton or f"Triton {importlib.metadata.version('triton')}"
    if interpreting_triton():
        without_triton, triton = "", f"{triton}; its interpreter takes tensors on the cpu"
    without_cuda = cuda_missing()
    cuda = without_cuda or f"CUDA C++, {torch.cuda.device_count()} device(s)"
    return [
        Backend("reference", True, f"float64 torch {torch.__version__}, any device"),
        Backend("torch", True, f"torch {torch.__version__}, any device"),
        Backend("cpu", not missing, cpu),
        Backend("triton", not without_triton, triton),
        Backend("cuda", not without_cuda, cuda),
    ]


def launching_on(device: torch.device) -> contextlib.AbstractContextManager:
    """Inside, Triton launches on this device and not on whichever is the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
