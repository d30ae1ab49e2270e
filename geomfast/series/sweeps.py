"""Checkpoints that a sweep has kept, measured on its own diagnostic samples, as it measures."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from geomfast.files import fingerprint, inside
from geomfast.measures import measures
from geomfast.measures.spec import BEHAVIOUR
from geomfast.runs.errors import PlanError
from geomfast.series.checkpoint import Checkpoint, apart
from geomfast.sweep.folder import read_folder
from geomfast.sweep.measuring import measure
from geomfast.sweep.plan import (
    RunSpec,
    Settings,
    diagnostic_settings,
    measure_settings,
    mixture_settings,
    rate_at,
)
from geomfast.sweep.samples import level_samples
from geomfast.sweep.saved_model import load_model
from geomfast.testbed.training.checkpoints import folder_name, read_meta, steps_kept, weights_hash


@dataclass(frozen=True)
class SweepSeries:
    """The kept checkpoints of one run of a sweep, and its initialisation.

    Attributes:
        out: the sweep's folder.
        spec: the run.
        settings: the sweep's, where some may be others: samples, and how llc is sampled.
        checkpoints: ascending.
    """

    out: Path
    spec: RunSpec
    settings: Settings
    checkpoints: tuple[Checkpoint, ...]

    @property
    def run(self) -> str:
        return self.spec.run

    @property
    def scale(self) -> str:
        return self.spec.scale

    @property
    def seed(self) -> int:
        return self.spec.seed

    @property
    def measures(self) -> tuple[str, ...]:
        return measures()

    @property
    def chance(self) -> dict[str, float]:
        return {level.name: level.chance for level in self.spec.task_levels}

    def shared(self) -> dict[str, Any]:
        names = ("tasks", "levels", "samples")
        return {"source": str(self.out)} | {name: getattr(self.settings, name) for name in names}

    def of(self, measure: str) -> dict[str, Any]:
        return measure_settings(self.settings, measure)

    def groups(self, measures: set[str]) -> list[set[str]]:
        return apart(measures)

    def bytes_of(self, checkpoint: Checkpoint) -> int | None:
        return 0

    def fetch(self, checkpoint: Checkpoint) -> Path:
        return inside(self.out, "checkpoints", self.run, checkpoint.name)

    def release(self, checkpoint: Checkpoint) -> None:
        pass

    def open(self, checkpoint: Checkpoint, folder: Path, device: str) -> OpenedRun:
        return OpenedRun(self, checkpoint, folder, device)


class OpenedRun:
    """A run's model at a checkpoint.

    Eigenvalues are searched for from the gradient on, at every checkpoint: where an earlier one
    ended, as in a sweep, would make them depend on which checkpoints there are. For the same reason
    nothing is compared with an earlier one.
    """

    def __init__(self, series: SweepSeries, checkpoint: Checkpoint, folder: Path, device: str):
        self._series = series
        self._rate = rate_at(checkpoint.step, series.settings, series.spec)
        kept = load_model(series.out, series.run, checkpoint.step)
        self.tokens: int | None = read_meta(folder)["tokens"] if checkpoint.step else 0
        self._model = kept.model.to(device)
        self.weights = weights_hash(self._model)
        self.parameters: int | None = None
        self._samples = level_samples(series.spec, series.settings, torch.device(device))
        self.notices: list[str] = []
        levels = series.spec.task_levels
        each = dict(diagnostic_settings(series.settings, level) for level in levels)
        self.described = each | dict([mixture_settings(list(each))])
        of = (series.of(measure) for measure in (BEHAVIOUR, *measures()))
        self.described |= {fingerprint(told): told for told in of}

    def take(self, measures: set[str]) -> list[dict[str, Any]]:
        settings = self._series.settings
        return measure(self._model, self._samples, measures, settings, None, self._rate)


def sweep_of(source: Path) -> tuple[Path, str | None] | None:
    """The sweep that a folder is, or is the checkpoints of, and the run that it is of.

    Args:
        source: a sweep's OUT, its ``checkpoints``, or the checkpoints of one of its runs.

    Returns:
        OUT and the run, None for all runs; None where it is none of these.
    """
    source = source.resolve()
    if (source / "settings.json").is_file():
        return source, None
    if source.name == "checkpoints" and (source.parent / "settings.json").is_file():
        return source.parent, None
    above = source.parent.parent
    if source.parent.name == "checkpoints" and (above / "settings.json").is_file():
        return above, source.name
    return None


def of_sweep(out: Path, run: str | None, **changes: Any) -> list[SweepSeries]:
    """A series for every run of a sweep whose weights have been kept.

    Args:
        out: the sweep's folder.
        run: this one only; all when None.
        changes: settings to measure with instead of the sweep's; those that are None stay.

    Raises:
        PlanError: no sweep, no such run, or no weights have been kept.
    """
    settings, specs = read_folder(out)
    changed = {name: value for name, value in changes.items() if value is not None}
    if fixed := sorted(changed.keys() - {field.name for field in fields(Settings)}):
        raise PlanError(f"{fixed[0]} is the same in every sweep: it cannot be {changed[fixed[0]]}")
    settings = replace(settings, **changed)
    if run is not None and run not in {spec.run for spec in specs}:
        raise PlanError(f"no run {run!r} in {out}; there are: {', '.join(c.run for c in specs)}")
    found = []
    for spec in specs:
        if run not in (None, spec.run):
            continue
        steps = steps_kept(out / "checkpoints" / spec.run)
        if steps:
            steps = sorted({0, *steps})
            kept = tuple(Checkpoint(step, folder_name(step)) for step in steps)
            found.append(SweepSeries(out, spec, settings, kept))
    if not found:
        raise PlanError(
            f"no weights have been kept in {out}; geomfast sweep --keep all keeps them all"
        )
    return found
