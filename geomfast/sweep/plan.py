"""Which runs a sweep consists of, what they all share, and the folder they live in.

Settings shape the numbers, so a folder holds one set of them and another is refused.  The grid
(scales, seeds, measures) only adds work, so it may grow from call to call.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geomfast.files import fingerprint, write_json
from geomfast.models.scales import SCALES
from geomfast.tasks import DIAGNOSTIC_STREAM, TaskLevel, task_levels
from geomfast.training.settings import TrainSettings, peak_rate

_FORMAT = "geomfast sweep 1"
_SETTINGS = "settings.json"
MIXTURES = ("joint", "per-task")
PRECISIONS = ("fp32", "bf16")
KEEP = ("last", "all")

#: Measures a sweep can take besides behaviour, which every checkpoint has.
MEASURES = {
    "rankme": "effective dimension of every layer's activations (RankMe)",
    "fisher_rank": "effective rank of the empirical Fisher matrix, over all parameters",
    "gradient_covariance_rank": "the same of the gradient covariance",
    "hessian_top": "largest eigenvalue of the Hessian, with its residual and products",
    "hessian_trace": "trace of the Hessian, with its standard error",
    "hessian_density": "quantiles of the Hessian's eigenvalues",
}
#: Measures of the Hessian, and how each is computed.
HESSIAN: dict[str, dict[str, Any]] = {
    "hessian_top": {"k": 1, "tol": 1e-3, "max_iterations": 100},
    "hessian_trace": {"probes": 30},
    "hessian_density": {"probes": 4, "iterations": 40},
}
#: The paper computed gradient ranks from this many parameters; recorded beside the exact values.
FIRST_ENTRIES = 50_000
BEHAVIOUR = "behaviour"


class PlanError(Exception):
    """A sweep that cannot start as asked; the message says what to change."""


class FolderInUse(PlanError):
    """Another geomfast process is writing there."""


@dataclass(frozen=True)
class Settings:
    """What every run of a sweep shares; see ``geomfast sweep --help`` for each."""

    mixture: str
    tasks: tuple[str, ...]
    levels: tuple[int, ...]
    steps: int
    batch_size: int
    learning_rate: float | None
    precision: str
    dense_until: int
    dense_every: int
    checkpoints: int
    samples: int
    position: str = "first_answer"
    center: bool = False
    eps: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One training run: a scale, a seed and what it is trained on."""

    scale: str
    seed: int
    tasks: tuple[str, ...]
    levels: tuple[int, ...]
    run: str

    @property
    def task_levels(self) -> list[TaskLevel]:
        """The task-levels trained on and measured."""
        return task_levels(self.tasks, self.levels)


def cells(settings: Settings, scales: tuple[str, ...], seeds: tuple[int, ...]) -> list[Cell]:
    """The runs of a grid, in the order they are started."""
    mixtures: list[tuple[str, tuple[str, ...]]] = [("joint", settings.tasks)]
    if settings.mixture == "per-task":
        mixtures = [(task.lower(), (task,)) for task in settings.tasks]
    return [
        Cell(scale, seed, tasks, settings.levels, f"{name}-{scale}-seed{seed}")
        for scale in scales
        for seed in seeds
        for name, tasks in mixtures
    ]


def measure_settings(settings: Settings, measure: str) -> dict[str, Any]:
    """The settings stored, hashed, with every value of a measure."""
    if measure == "rankme":
        keys = ("samples", "position", "center", "eps")
        return {"measure": measure, **{key: getattr(settings, key) for key in keys}}
    if measure in HESSIAN:
        loss = "nats per answer token, mean"
        return {"measure": measure, "samples": settings.samples, "loss": loss, **HESSIAN[measure]}
    if measure in MEASURES:
        return {
            "measure": measure,
            "samples": settings.samples,
            "loss": "nats per answer token, mean",
            "labels": "data",
            "first entries": FIRST_ENTRIES,
        }
    return {"measure": measure, "samples": settings.samples, "decoding": "teacher-forced argmax"}


def diagnostic_settings(settings: Settings, level: TaskLevel) -> tuple[str, dict[str, Any]]:
    """Hash and description of a task-level's fixed diagnostic samples."""
    tokens = level.examples(DIAGNOSTIC_STREAM, 0, settings.samples).tokens
    description = {
        "task": level.task,
        "level": level.level,
        "stream": DIAGNOSTIC_STREAM,
        "samples": settings.samples,
    }
    return hashlib.sha256(tokens.tobytes()).hexdigest()[:16], description


def check_folder(out: Path) -> None:
    """Check that OUT is, or can be, a sweep's folder; makes it where it is missing.

    Raises:
        PlanError: a file, not writable, or a folder of something else.
    """
    if out.exists() and not out.is_dir():
        raise PlanError(f"{out} is a file; OUT must be a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(f"cannot make {out}: {error.strerror}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise PlanError(f"{out} is not writable")
    # Hidden files may be our lock, or the remains of a first write that was killed.
    visible = [entry for entry in out.iterdir() if not entry.name.startswith(".")]
    if visible and not (out / _SETTINGS).exists():
        raise PlanError(f"{out} is not empty and has no {_SETTINGS}: not a sweep's folder")


def prepare_folder(
    out: Path, settings: Settings, grid: dict[str, list[Any]], call: dict[str, Any]
) -> None:
    """Write or extend OUT's ``settings.json``; the caller holds OUT's lock.

    Args:
        out: the sweep's folder.
        settings: what its runs share.
        grid: scales, seeds and measures asked for; merged with those already there.
        call: command, versions, machine, date; kept for the reader, never compared.

    Raises:
        PlanError: OUT cannot be written, or belongs to a sweep with other settings.
    """
    path = out / _SETTINGS
    shared = _plain(asdict(settings))
    recipes = {name: _recipe(settings, name) for name in grid["scales"]}
    calls = [call]
    if path.exists():
        before = _read_settings(path)
        both = {name: recipe for name, recipe in before["recipes"].items() if name in recipes}
        _refuse_other(
            out,
            before["settings"] | both,
            shared | {name: recipes[name] for name in both},
        )
        grid = {key: _union(before["grid"].get(key, []), values) for key, values in grid.items()}
        recipes = before["recipes"] | recipes
        calls = [*before["calls"], call]
    levels = task_levels(settings.tasks, settings.levels)
    hashes = {
        fingerprint(value): value
        for value in (measure_settings(settings, m) for m in (BEHAVIOUR, *MEASURES))
    }
    hashes |= dict(diagnostic_settings(settings, level) for level in levels)
    content = {
        "format": _FORMAT,
        "settings": shared,
        "recipes": recipes,
        "grid": grid,
        "chance": {level.name: level.chance for level in levels},
        "hashes": hashes,
        "calls": calls,
    }
    try:
        write_json(path, content)
    except OSError as error:
        raise PlanError(f"cannot write {path}: {error.strerror}") from error


def train_settings(settings: Settings) -> TrainSettings:
    """The part of a sweep's settings that training needs."""
    return TrainSettings(
        settings.steps, settings.batch_size, settings.learning_rate, precision=settings.precision
    )


def _recipe(settings: Settings, scale: str) -> dict[str, Any]:
    """How a scale is built and trained, defaults included, so that a later default shows."""
    training = train_settings(settings)
    recipe = {**asdict(SCALES[scale]), **asdict(training)}
    return _plain(recipe | {"learning_rate": peak_rate(training, scale)})


def run_identity(settings: Settings, cell: Cell) -> dict[str, Any]:
    """What names a run's computation: its recipe, its seed and what it is trained on."""
    cell_fields = _plain(asdict(cell))
    del cell_fields["scale"]
    return cell_fields | _recipe(settings, cell.scale)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for this process; the lock goes with the process, however it ends.

    Raises:
        FolderInUse: another process holds it.
    """
    import fcntl  # not on Windows, where reports still work

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderInUse(f"{what} is in use by another geomfast process") from error
        yield


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PlanError(f"{path} cannot be read: {error}") from error
    wanted = {"settings", "recipes", "grid", "calls"}
    if (
        not isinstance(content, dict)
        or content.get("format") != _FORMAT
        or not wanted <= content.keys()
    ):
        raise PlanError(f"{path} is not a geomfast sweep's")
    return content


def _refuse_other(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = []
    for key in sorted({*before, *now}):
        there, here = before.get(key), now.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            inside = [k for k in sorted({*there, *here}) if there.get(k) != here.get(k)]
            # What a setting of the sweep says already need not be said again for every scale.
            changed += [
                f"  {key}.{k}: {_show(there.get(k))} there, {_show(here.get(k))} asked for"
                for k in inside
                if before.get(k) == now.get(k)
            ]
        elif there != here:
            changed.append(f"  {key}: {_show(there)} there, {_show(here)} asked for")
    if changed:
        raise PlanError(
            f"{out} belongs to a sweep with other settings:\n" + "\n".join(changed) + "\n"
            "Choose another folder, or ask for the same settings."
        )


def _plain(value: Any) -> Any:
    """The value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


def _show(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _union(before: list[Any], now: list[Any]) -> list[Any]:
    return [*before, *(value for value in now if value not in before)]
