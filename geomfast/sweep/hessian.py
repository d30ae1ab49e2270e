"""Hessians of a checkpoint, each started from where the one before it ended."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from geomfast.files import fingerprint, write_atomically
from geomfast.measures.hessian import (
    NotConverged,
    hessian_density,
    hessian_top_eigenvalues,
    hessian_trace,
)
from geomfast.sweep.plan import HESSIAN, Settings, measure_settings
from geomfast.sweep.rows import Probe, Row, row

HESSIAN_MEASURES = set(HESSIAN)
#: Shares of the eigenvalues below which those recorded of a density lie.
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)

# More than this is not written with every checkpoint; the search then starts at random.
_LARGEST_FILE = 1 << 30


class Eigenvectors:
    """Top eigenvectors of the last two checkpoints, kept so that a resumed run finds them.

    A run that was killed between two writes measures a checkpoint again, and has to start from
    what it started from before: the one before that checkpoint.

    Args:
        folder: of the run's checkpoints.
        step: of the checkpoint that is measured.
    """

    def __init__(self, folder: Path, step: int):
        self.folder, self.step = folder, step
        steps = sorted(int(path.stem.split("-")[1]) for path in folder.glob("eigenvectors-*"))
        earlier = [found for found in steps if found < step]
        self.before: dict[str, Tensor] = {}
        if earlier:
            self.before = safetensors.torch.load_file(self._path(earlier[-1]))
        for old in earlier[:-1]:
            self._path(old).unlink(missing_ok=True)
        self.found: dict[str, Tensor] = {}

    def save(self) -> None:
        """Writes what was found at this step, if anything was and it is not too large."""
        if 0 < sum(v.nbytes for v in self.found.values()) <= _LARGEST_FILE:
            write_atomically(self._path(self.step), safetensors.torch.save(self.found))

    def _path(self, step: int) -> Path:
        return self.folder / f"eigenvectors-{step:08d}.safetensors"


def hessian_rows(
    model: torch.nn.Module,
    samples: list[Probe],
    wanted: list[str],
    settings: Settings,
    eigenvectors: Eigenvectors,
) -> Iterator[Row]:
    """Rows of the wanted measures of every task-level's Hessian.

    Of the top eigenvalue the standard error is its residual: an eigenvalue lies within it. One
    that has not converged is recorded with the residual that it has.
    """
    for probe in samples:
        for name in wanted:
            begin = time.perf_counter()
            values = list(_values(model, probe, name, eigenvectors))
            seconds = (time.perf_counter() - begin) / len(values)
            named = fingerprint(measure_settings(settings, name))
            for label, value, stderr in values:
                yield row(probe, "", label, value, stderr, named, "torch", seconds)


def _values(
    model: torch.nn.Module, probe: Probe, name: str, eigenvectors: Eigenvectors
) -> Iterator[tuple[str, float, float]]:
    options = HESSIAN[name]
    nan = float("nan")
    if name == "hessian_top":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConverged)  # its residual is recorded
            found = hessian_top_eigenvalues(
                model,
                probe.loss,
                probe.tokens,
                start=eigenvectors.before.get(probe.level.name),
                **options,
            )
        eigenvectors.found[probe.level.name] = found.vectors.cpu()
        yield name, found.values[0].item(), found.residuals[0].item()
        yield f"{name}_iterations", float(found.iterations), nan
    elif name == "hessian_trace":
        trace = hessian_trace(model, probe.loss, probe.tokens, **options)
        yield name, trace.mean, trace.stderr
    else:
        density = hessian_density(model, probe.loss, probe.tokens, **options)
        below = torch.cumulative_trapezoid(density.density, density.grid)
        for share in QUANTILES:
            at = int(torch.searchsorted(below, share).clamp_max(len(below) - 1))
            yield f"{name}_q{round(100 * share):02d}", density.grid[at + 1].item(), nan
