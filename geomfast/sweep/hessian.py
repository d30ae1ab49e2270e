"""Hessians of a checkpoint, each started from where the one before it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from geomfast.files import fingerprint, write_atomically
from geomfast.measures.values import hessian_values
from geomfast.sweep.plan import HESSIAN, Settings, hessian_options, measure_settings
from geomfast.sweep.rows import Probe, Row, row

HESSIAN_MEASURES = set(HESSIAN)

#: More bytes than this are not written with every checkpoint; the search then starts at random.
LARGEST_FILE = 1 << 30


class Eigenvectors:
    """Top eigenvectors of the last two checkpoints that have any, kept for a run that is resumed.

    A run that was killed between two writes measures a checkpoint again, and has to start from
    what it started from before: the one before that checkpoint.

    Args:
        folder: of the run's checkpoints.
        step: of the checkpoint that is measured.
    """

    def __init__(self, folder: Path, step: int):
        self.folder, self.step = folder, step
        self.found: dict[str, Tensor] = {}
        self._bytes = 0

    @cached_property
    def before(self) -> dict[str, Tensor]:
        """Those of the last checkpoint before this one that has any."""
        earlier = self._earlier()
        return safetensors.torch.load_file(self._path(earlier[-1])) if earlier else {}

    def keep(self, name: str, vectors: Tensor) -> None:
        """Notes what was found of a task-level, unless all are too large to be written."""
        self._bytes += vectors.nbytes
        if self._bytes > LARGEST_FILE:
            self.found.clear()
        else:
            self.found[name] = vectors.cpu()

    def save(self) -> None:
        """Writes what was found at this step, if anything was and it is not too large."""
        if self.found:
            write_atomically(self._path(self.step), safetensors.torch.save(self.found))
            for old in self._earlier()[:-1]:
                self._path(old).unlink(missing_ok=True)

    def _earlier(self) -> list[int]:
        steps = sorted(int(p.stem.split("-")[1]) for p in self.folder.glob("eigenvectors-*"))
        return [found for found in steps if found < self.step]

    def _path(self, step: int) -> Path:
        return self.folder / f"eigenvectors-{step:08d}.safetensors"


def hessian_rows(
    model: torch.nn.Module,
    samples: list[Probe],
    wanted: list[str],
    settings: Settings,
    eigenvectors: Eigenvectors,
) -> Iterator[Row]:
    """Rows of the wanted measures of every task-level's Hessian."""
    for probe in samples:
        for name in wanted:
            begin = time.perf_counter()
            at = probe.level.name
            values, vectors = hessian_values(
                model,
                probe.loss,
                probe.tokens,
                name,
                start=eigenvectors.before.get(at) if name == "hessian_top" else None,
                **hessian_options(settings, name),
            )
            if vectors is not None:
                eigenvectors.keep(at, vectors)
            seconds = (time.perf_counter() - begin) / len(values)
            named = fingerprint(measure_settings(settings, name))
            for label, value, stderr in values:
                yield row(probe, "", label, value, stderr, named, "torch", seconds)
