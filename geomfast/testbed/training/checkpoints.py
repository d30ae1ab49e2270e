"""Checkpoints: safetensors and JSON, written whole, read with suspicion, never unpickled.

A checkpoint is a folder ``step-00000012/`` with ``weights.safetensors``, while it may still be
resumed from ``optimizer.safetensors``, and ``checkpoint.json``, written last: a folder without it
is the remains of an interrupted write and does not count, nor does a file that it does not name.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from geomfast.files import DamagedFile, FileError, read_sealed, write_atomically, write_sealed

_FORMAT = "geomfast checkpoint 1"
_NAME = re.compile("step-([0-9]{8,19})")
_WEIGHTS, _OPTIMIZER, _META = "weights.safetensors", "optimizer.safetensors", "checkpoint.json"


class CheckpointError(FileError):
    """A checkpoint that is damaged, foreign or of another run; the message names the file."""


def folder_name(step: int) -> str:
    """Folder of the checkpoint at ``step``; sorts by step."""
    return f"step-{step:08d}"


def weights_hash(model: torch.nn.Module) -> str:
    """16 hexadecimal digits that name a model's parameters and buffers, by name and value."""
    return tensors_hash(model.state_dict())


def tensors_hash(tensors: dict[str, Tensor]) -> str:
    """16 hexadecimal digits that name tensors by name, type, shape and value."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()[:16]


def write(
    folder: Path,
    weights: dict[str, Tensor],
    optimizer: dict[str, Tensor] | None,
    identity: dict[str, Any],
    meta: dict[str, Any],
) -> None:
    """Write one checkpoint's folder, what makes it count last.

    Args:
        folder: named by :func:`folder_name`.
        weights, optimizer: by name, on any device; without the latter it cannot be resumed from.
        identity: JSON-able description of run and settings, compared when loading.
        meta: JSON-able; ``step`` and all else that :func:`read_meta` is to return.

    Raises:
        OSError: the disk is full or not writable.
    """
    written = {_WEIGHTS: safetensors.torch.save(_on_cpu(weights))}
    if optimizer is not None:
        written[_OPTIMIZER] = safetensors.torch.save(_on_cpu(optimizer))
    for name, content in written.items():
        write_atomically(folder / name, content)
    sums = {name: _sha256(content) for name, content in written.items()}
    meta = {"format": _FORMAT, "identity": identity, **meta, "sha256": sums}
    write_sealed(folder / _META, meta)


def steps_saved(run_folder: Path) -> list[int]:
    """Steps of the complete checkpoints of a run that can be resumed from, ascending."""
    kept = steps_kept(run_folder)
    return [step for step in kept if _resumable(run_folder / folder_name(step))]


def steps_kept(run_folder: Path) -> list[int]:
    """Steps of all complete checkpoints of a run, with or without optimiser state, ascending."""
    found = (_NAME.fullmatch(meta.parent.name) for meta in run_folder.glob(f"step-*/{_META}"))
    return sorted(int(named[1]) for named in found if named)


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Give a model the weights in a checkpoint folder.

    Raises:
        CheckpointError: damaged, foreign, or of another model.
    """
    weights = read_weights(folder)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder / _WEIGHTS}: not this model's weights: {error}") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint folder, by parameter, on the CPU.

    Raises:
        CheckpointError: damaged or foreign.
    """
    return _read(folder / _WEIGHTS, read_meta(folder)["sha256"].get(_WEIGHTS))


def read_optimizer(folder: Path) -> dict[str, Tensor]:
    """The optimiser's tensors in a checkpoint folder, on the CPU.

    Raises:
        CheckpointError: damaged or foreign.
    """
    return _read(folder / _OPTIMIZER, read_meta(folder)["sha256"].get(_OPTIMIZER))


def read_meta_of(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a checkpoint folder, which has to be of this run.

    Raises:
        CheckpointError: it is missing, not geomfast's, or of another run.
    """
    meta = read_meta(folder)
    _refuse_other(folder, meta["identity"], identity)
    return meta


def read_meta(folder: Path) -> dict[str, Any]:
    """The metadata of a checkpoint folder.

    Raises:
        CheckpointError: it is missing or not geomfast's.
    """
    path = folder / _META
    try:
        meta = read_sealed(path)
    except (DamagedFile, OSError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
    if meta.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: not a geomfast checkpoint")
    if wrong := _wrong(meta):
        raise CheckpointError(f"{path}: not a geomfast checkpoint: {wrong}")
    if (named := _NAME.fullmatch(folder.name)) and int(named[1]) != meta["step"]:
        raise CheckpointError(
            f"{path}: of step {meta['step']}, which its folder's name does not say"
        )
    return meta


def require(meta: dict[str, Any], folder: Path, *names: str) -> None:
    """Refuse metadata that lack something.

    Raises:
        CheckpointError: names it.
    """
    for name in names:
        if name not in meta:
            raise CheckpointError(f"{folder / _META}: not of a checkpoint like this: no {name}")


def prune(run_folder: Path, step: int, *, keep_states: int, keep_weights: bool) -> None:
    """Drop what no resume needs any more.

    Args:
        run_folder: folder of the run's checkpoints.
        step: where the run is now.  A run that is repeated for a measure added later finds states
            of its first time ahead of it; they are left alone until it gets there.
        keep_states: latest checkpoints up to ``step`` left untouched.
        keep_weights: keep the weights of older ones, drop only their optimiser state.
    """
    reached = [saved for saved in steps_saved(run_folder) if saved <= step]
    for saved in reached[:-keep_states]:
        folder = run_folder / folder_name(saved)
        if keep_weights:
            (folder / _OPTIMIZER).unlink()
        else:
            (folder / _META).unlink()  # first, so that no half-deleted folder counts
            shutil.rmtree(folder)


def remove_partial_writes(run_folder: Path) -> None:
    """Remove what writes that were killed have left behind; only the run's one writer may."""
    for remains in run_folder.rglob(".tmp-*"):
        remains.unlink(missing_ok=True)
    for folder in run_folder.glob("step-*"):
        if folder.is_dir() and not (folder / _META).exists():
            shutil.rmtree(folder)
        elif not _resumable(folder):
            (folder / _OPTIMIZER).unlink(missing_ok=True)


def _resumable(folder: Path) -> bool:
    """Whether a complete checkpoint has its optimiser state.

    Killed while a state is written over kept weights, a run leaves one that nothing vouches for.
    """
    if not (folder / _OPTIMIZER).exists():
        return False
    try:
        return _OPTIMIZER in read_meta(folder)["sha256"]
    except CheckpointError:
        return True  # loading it says what is wrong with it


def _wrong(meta: dict[str, Any]) -> str:
    """Description of invalid metadata; empty if it is valid."""
    for name in ("identity", "sha256"):
        if not isinstance(meta.get(name), dict):
            return f"no {name}"
    for name in ("step", "tokens", "processed_tokens"):
        value = meta.get(name, 0 if name != "step" else None)
        if type(value) is not int or value < 0:
            return f"{name} {value!r:.60}"
    seconds = meta.get("seconds", {})
    if not isinstance(seconds, dict) or not all(
        isinstance(value, int | float) for value in seconds.values()
    ):
        return f"seconds {seconds!r:.60}"
    if not isinstance(meta.get("loss", 0.0), int | float):
        return f"loss {meta['loss']!r:.60}"
    return ""


def _refuse_other(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    changed = [
        f"{key} {there.get(key)} there, {here.get(key)} here"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]
    if changed:
        raise CheckpointError(f"{folder}: of another run: {'; '.join(changed)}")


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _read(path: Path, expected: str | None) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if _sha256(content) != expected:
        raise CheckpointError(f"{path}: truncated or changed since it was written")
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
