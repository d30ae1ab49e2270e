"""Eigenvectors of a checkpoint's Hessians, from which the search at the next one starts."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

from torch import Tensor

from geomfast.sweep.retained import Retained
from geomfast.sweep.tensor_files import LARGEST_FILE, read_tensors, write_tensors

_NAME = re.compile(r"eigenvectors-([0-9]{8,19})\.safetensors")
_OF = " of "


def of_measure(name: str, measure: str) -> str:
    """Name of a task-level's vectors, or of those that one measure keeps beside them."""
    return f"{name}{_OF}{measure}" if measure else name


class Eigenvectors:
    """Top eigenvectors of the last two checkpoints that have any, kept for a run that is resumed.

    A run that was killed between two writes measures a checkpoint again, and has to start from
    what it started from before: the one before that checkpoint.

    Args:
        folder: of the run's checkpoints.
        step: of the checkpoint that is measured.

    Attributes:
        retained: beside them, what measures of layers compare later checkpoints with.
    """

    def __init__(self, folder: Path, step: int):
        self.folder, self.step = folder, step
        self.found: dict[str, Tensor] = {}
        self.retained = Retained(folder, step)
        self._bytes = 0

    @cached_property
    def before(self) -> dict[str, Tensor]:
        """Eigenvectors of the last earlier checkpoint that has some."""
        earlier = self._earlier()
        return read_tensors(self._path(earlier[-1])) if earlier else {}

    def keep(self, name: str, vectors: Tensor) -> None:
        """Notes what was found of a task-level, unless all are too large to be written.

        What one measure keeps beside the others (`of_measure`) is left out alone.
        """
        if _OF in name:
            self._add_beside(name, vectors)
            return
        self._bytes += vectors.nbytes
        if self._bytes > LARGEST_FILE:
            self.found = {kept: x for kept, x in self.found.items() if _OF in kept}
        else:
            self.found[name] = vectors.cpu()

    def _add_beside(self, name: str, vectors: Tensor) -> None:
        beside = sum(x.nbytes for kept, x in self.found.items() if _OF in kept)
        if beside + vectors.nbytes <= LARGEST_FILE:
            # Of its own memory: one search may be what two measures keep.
            self.found[name] = vectors.cpu().clone()

    def save(self) -> None:
        """Writes what was found at this step, if anything was and it is not too large.

        With what was kept earlier and is not found anew, as measures may be taken at different
        checkpoints.
        """
        self.retained.save()
        if self.found:
            searched = any(_OF not in name for name in self.found)
            for name, vectors in self.before.items():
                if name in self.found:
                    continue
                if _OF in name:
                    self._add_beside(name, vectors)
                elif not searched:
                    self.found[name] = vectors
            write_tensors(self._path(self.step), self.found)
            for old in self._earlier()[:-1]:
                self._path(old).unlink(missing_ok=True)

    def _earlier(self) -> list[int]:
        names = (_NAME.fullmatch(path.name) for path in self.folder.glob("eigenvectors-*"))
        steps = sorted(int(named[1]) for named in names if named)
        return [found for found in steps if found < self.step]

    def _path(self, step: int) -> Path:
        return self.folder / f"eigenvectors-{step:08d}.safetensors"
