"""Operations, and which backend runs each of them for an input.

`GEOMFAST_BACKEND` forces one backend for every operation; an operation that does not support it
raises then. Without it an operation takes the first backend of its table that supports the input,
and a fall-back caused by something missing on this machine is logged once.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geomfast.kernels import backends
from geomfast.kernels.backends import ENVIRONMENT_VARIABLE, NAMES, BackendError

logger = logging.getLogger("geomfast")

#: Takes a tensor to the device and the type in which a backend is tested; a copy.
Placement = Callable[[Tensor], Tensor]
#: (backend, placement) -> results by name, of the same small input whatever the backend.
SelfTest = Callable[[str, Placement], dict[str, Tensor]]
#: What a backend has against an input; empty for nothing.
Objection = Callable[[Tensor], str]

_NONE: Mapping[str, Objection] = MappingProxyType({})


class Candidate(NamedTuple):
    """A backend's answer for one input.

    Attributes:
        name: of the backend.
        refusal: why it does not support the input; empty if it does.
        missing: the refusal is due to something missing on this machine, worth telling the user.
        slower: why another backend is preferred although this one supports the input; empty if not.
    """

    name: str
    refusal: str = ""
    missing: bool = False
    slower: str = ""


class Op:
    """One operation: its implementations, the table that picks one, and its self-test.

    ``OP[backend]`` is the implementation on one backend, which checks nothing: callers that run an
    operation many times ask `backend_for` once.

    Args:
        name: of the operation, for messages.
        implementations: backend -> module or function, best first. Each backend answers by the
            tensor's device; see ``refusals`` and ``slower`` for what else it depends on.
        refusals: backend -> why it does not support an input on its own device.
        slower: backend -> why the ones behind it are preferred for an input that it supports.
    """

    def __init__(
        self,
        name: str,
        implementations: Mapping[str, Any],
        refusals: Mapping[str, Objection] = _NONE,
        slower: Mapping[str, Objection] = _NONE,
    ) -> None:
        self.name, self.implementations = name, implementations
        self._refusals, self._slower = refusals, slower
        self.tolerances: dict[str, float] = {}
        self.run_self_test: SelfTest

    def __getitem__(self, backend: str) -> Any:
        return self.implementations[backend]

    def candidates(self, x: Tensor) -> Iterator[Candidate]:
        """What every backend of the table answers for x, best first."""
        for name in self.implementations:
            refusal = self._refusals[name](x) if name in self._refusals else ""
            answer = Candidate(name, refusal) if refusal else _by_device(name, x.device)
            if name in self._slower and not answer.refusal:
                answer = answer._replace(slower=answer.slower or self._slower[name](x))
            yield answer

    def available_backends(self, x: Tensor) -> list[str]:
        """Names of all backends that support x on this machine, best first."""
        return [candidate.name for candidate in self.candidates(x) if not candidate.refusal]

    def backend_for(self, x: Tensor) -> str:
        """The backend that runs the operation for x: the forced one, else the first that fits.

        Records store the name.

        Raises:
            BackendError: the forced backend is unknown, not available or does not support x, or
                none does.
        """
        if forced := os.environ.get(ENVIRONMENT_VARIABLE, ""):
            return self._forced(forced, x)
        for candidate in self.candidates(x):
            if candidate.missing:
                _log_once(self.name, candidate.name, candidate.refusal)
            if not candidate.refusal and not candidate.slower:
                return candidate.name
        reasons = "; ".join(f"{c.name}: {c.refusal or c.slower}" for c in self.candidates(x))
        raise BackendError(f"no backend supports {self.name}: {reasons}")

    def _forced(self, name: str, x: Tensor) -> str:
        if name not in NAMES:
            raise BackendError(f"{ENVIRONMENT_VARIABLE}={name!r} is not one of {list(NAMES)}")
        forced = f"{ENVIRONMENT_VARIABLE}={name}"
        if name not in self.implementations:
            detail = next(b.detail for b in backends.backend_report() if b.name == name)
            raise BackendError(f"{forced}: not available for {self.name}: {detail}")
        refusal = next(c.refusal for c in self.candidates(x) if c.name == name)
        if refusal:
            raise BackendError(f"{forced} does not support {self.name}: {refusal}")
        return name

    def self_test(self, tolerances: dict[str, float]) -> Callable[[SelfTest], SelfTest]:
        """Decorator of the function that `geomfast doctor` runs on every backend.

        Args:
            tolerances: name of a result -> largest error relative to the largest value of the
                float64 reference.
        """

        def keep(function: SelfTest) -> SelfTest:
            self.tolerances, self.run_self_test = tolerances, function
            return function

        return keep


def ops() -> list[Op]:
    """Every operation: ``OP`` of the ``op.py`` in each folder beside this file."""
    folders = pkgutil.iter_modules([str(Path(__file__).parent)], "geomfast.kernels.")
    return [importlib.import_module(f"{f.name}.op").OP for f in folders if f.ispkg]


def float32_only(x: Tensor) -> str:
    """Objection of kernels compiled for float32."""
    return "" if x.dtype == torch.float32 else f"supports float32, x is {x.dtype}"


def _by_device(backend: str, device: torch.device) -> Candidate:
    """What a backend answers for tensors on a device."""
    if backend == "torch":
        return Candidate(backend)
    if backend == "reference":
        return Candidate(backend, slower="for comparison only")
    own = "cpu" if backend == "cpu" else "cuda"
    if device.type == own:
        missing = backends.missing_on_device(backend)
        return Candidate(backend, missing, missing=bool(missing))
    if backend == "triton" and device.type == "cpu" and backends.interpreting_triton():
        return Candidate(backend, slower="the interpreter is for tests")
    return Candidate(backend, f"supports tensors on the {own} device, x is on {device}")


@functools.cache
def _log_once(operation: str, name: str, reason: str) -> None:
    logger.warning("%s: backend %s is not used: %s", operation, name, reason)
