"""Tensors that measures of layers keep of some checkpoints, to compare later ones with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor

from geomfast.sweep.tensor_files import LARGEST_FILE, read_tensors, write_tensors

_NAME = re.compile(r"retained-([0-9]{8,19})\.safetensors")


class Retained:
    """What is kept of a run: at its first checkpoint, at the first one from every power of two of
    steps on, and at the last two.

    A run that was killed between two writes measures a checkpoint again, and has to compare it
    with what it compared it with before: hence the last two.

    Args:
        folder: of the run's checkpoints.
        step: of the checkpoint that is measured.
    """

    def __init__(self, folder: Path, step: int):
        self.folder, self.step = folder, step
        self.found: dict[str, Tensor] = {}

    def of(self, measure: str, level: str) -> OfLevel:
        """That of one measure and task-level."""
        return OfLevel(self, f"{measure}/{level}/")

    @cached_property
    def before(self) -> dict[int, dict[str, Tensor]]:
        """Tensors of earlier checkpoints, by step."""
        return {step: read_tensors(self._path(step)) for step in self._steps() if step < self.step}

    def save(self) -> None:
        """Writes what was found at this step, if anything was and it is not too large."""
        if not self.found or sum(one.nbytes for one in self.found.values()) > LARGEST_FILE:
            return
        write_tensors(self._path(self.step), self.found)
        # Not those of later steps, of an earlier attempt: they are still to be replaced.
        steps = [step for step in self._steps() if step <= self.step]
        for old in set(steps) - set(landmarks(steps)) - set(steps[-2:]):
            self._path(old).unlink(missing_ok=True)

    def _steps(self) -> list[int]:
        names = (_NAME.fullmatch(path.name) for path in self.folder.glob("retained-*"))
        return sorted(int(named[1]) for named in names if named)

    def _path(self, step: int) -> Path:
        return self.folder / f"retained-{step:08d}.safetensors"


class OfLevel:
    """A measure's tensors of one task-level; see :class:`geomfast.measures.subject.Earlier`."""

    def __init__(self, retained: Retained, prefix: str):
        self._retained, self._prefix = retained, prefix

    @property
    def steps(self) -> Mapping[int, Mapping[str, Tensor]]:
        own = {
            step: {
                name.removeprefix(self._prefix): one
                for name, one in tensors.items()
                if name.startswith(self._prefix)
            }
            for step, tensors in self._retained.before.items()
        }
        return {step: tensors for step, tensors in own.items() if tensors}

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        for name, one in tensors.items():
            self._retained.found[self._prefix + name] = one.cpu().contiguous()


def landmarks(steps: Iterable[int]) -> list[int]:
    """Of some steps the first, and the first from every power of two on."""
    by_power: dict[int, int] = {}
    for step in sorted(steps):
        by_power.setdefault(step.bit_length(), step)
    return list(by_power.values())
