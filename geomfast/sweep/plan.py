"""Which runs a sweep consists of, what they all share, and the folder they live in.

Settings shape the numbers, so a folder holds one set of them and another is refused.  The grid
(scales, seeds, measures) only adds work, so it may grow from call to call.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geomfast.files import fingerprint, write_json
from geomfast.tasks import DIAGNOSTIC_STREAM, TASKS, TaskLevel, task_levels

_FORMAT = "geomfast sweep 1"
MIXTURES = ("joint", "per-task")
PRECISIONS = ("fp32", "bf16")
KEEP = ("last", "all")

#: Measures a sweep can take besides behaviour, which every checkpoint has.
MEASURES = {
    "rankme": "effective dimension of every layer's activations (RankMe)",
}
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


def prepare_folder(
    out: Path, settings: Settings, grid: dict[str, list[Any]], context: dict[str, Any]
) -> None:
    """Check that OUT is ours to write, and write or extend its ``settings.json``.

    Args:
        out: the sweep's folder.
        settings: what its runs share.
        grid: scales, seeds and measures asked for; merged with those already there.
        context: command, versions, machine; kept for the reader, never compared.

    Raises:
        PlanError: a file, not writable, of another program, or of a sweep with other settings.
    """
    if out.exists() and not out.is_dir():
        raise PlanError(f"{out} is a file; OUT must be a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(f"cannot make {out}: {error.strerror}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise PlanError(f"{out} is not writable")
    path = out / "settings.json"
    shared = json.loads(json.dumps(asdict(settings)))
    if path.exists():
        before = _read_settings(path)
        _refuse_other(out, before["settings"], shared)
        grid = {key: _union(before["grid"].get(key, []), values) for key, values in grid.items()}
        context = {**context, "commands": _union(before["commands"], context["commands"])}
    elif any(entry.name != ".lock" for entry in out.iterdir()):
        raise PlanError(f"{out} is not empty and has no settings.json: not a sweep's folder")
    levels = task_levels(settings.tasks, settings.levels)
    hashes = {
        fingerprint(value): value
        for value in (measure_settings(settings, m) for m in (BEHAVIOUR, *MEASURES))
    }
    hashes |= dict(diagnostic_settings(settings, level) for level in levels)
    content = {
        "format": _FORMAT,
        **context,
        "settings": shared,
        "grid": grid,
        "chance": {level.name: TASKS[level.task].chance(level.level) for level in levels},
        "hashes": hashes,
    }
    try:
        write_json(path, content)
    except OSError as error:
        raise PlanError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for this process; the lock goes with the process, however it ends.

    Raises:
        FolderInUse: another process holds it.
    """
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
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise PlanError(f"{path} is not a geomfast sweep's")
    return content


def _refuse_other(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [
        f"  {key}: {_show(before.get(key))} there, {_show(now.get(key))} asked for"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise PlanError(
            f"{out} belongs to a sweep with other settings:\n" + "\n".join(changed) + "\n"
            "Choose another folder, or ask for the same settings."
        )


def _show(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _union(before: list[Any], now: list[Any]) -> list[Any]:
    return [*before, *(value for value in now if value not in before)]
