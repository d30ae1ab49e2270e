"""Modules under their old names, for one version: importing one warns and gives the new one."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Where what was here until 0.1 is now; what is below a name goes with it.
MOVED = {
    "integrations.tracker": "tracker.tracker",
    "integrations.callbacks": "tracker.callbacks",
    "integrations.tracking": "tracker",
    "integrations.tracking.earlier": "tracker.resume",
    "integrations.tracking.words": "tracker.messages",
    "integrations.series": "series",
    "integrations.measure.folder": "runs.model_folder",
    "integrations.measure.plan": "series.plan",
    "integrations.measure.running": "series.running",
    **{
        f"integrations.{name}": f"measures.model.{name}"
        for name in ("call", "evaluation", "measurement", "measuring", "options", "states")
    },
    **{
        f"integrations.{name}": f"lm.{name}"
        for name in ("adapters", "causal_lm", "encoding", "hf", "hub", "own_code", "probe_sets")
    },
    "models": "testbed.models",
    "tasks": "testbed.tasks",
    "training": "testbed.training",
    "sweep.engines.sharing": "runs.sharing",
    "sweep.engines": "runs.executors",
    "sweep.cell": "sweep.jobs",
    "sweep.stacked_cells": "sweep.jobs",
    "sweep.population": "population",
    **{
        f"sweep.{name}": f"runs.{name}"
        for name in ("cadence", "failures", "locks", "settings_file", "states")
    },
    **{f"{room}.parts": "runs.recorded" for room in ("runs", "sweep")},
    **{f"{room}.wall": "runs.timing" for room in ("runs", "sweep")},
    "sweep.kept": "sweep.saved_model",
    "sweep.rows": "sweep.samples",
}
#: Packages that are gone and held nothing but what has moved.
_GONE = ("integrations", "integrations.measure")
_PREFIX = "geomfast."


def new_name(name: str) -> str | None:
    """The name that a module of an old name has now; None where it has not moved."""
    if not name.startswith(_PREFIX):
        return None
    old, rest = name.removeprefix(_PREFIX), ""
    while old not in MOVED:
        old, dot, last = old.rpartition(".")
        if not dot:
            return None
        rest = f".{last}{rest}"
    return f"{_PREFIX}{MOVED[old]}{rest}"


class _Moved(MetaPathFinder, Loader):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        gone = fullname.removeprefix(_PREFIX) in _GONE
        if not gone and new_name(fullname) is None:
            return None
        return ModuleSpec(fullname, self, is_package=gone)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = new_name(module.__name__)
        if name is None:  # a package that is gone, on the way to a module of it
            return
        said = f"{module.__name__} is {name} now; the old name goes with the next version"
        warnings.warn(said, DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = importlib.import_module(name)


def install() -> None:
    """Let old names be imported."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        # Before the others: through a package's old name they would find its files, and make of
        # each a second module.
        sys.meta_path.insert(0, _Moved())
