"""Checkpoints that are adapters alone (peft), which need the model that they were trained on."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from geomfast.lm.hub import CorruptCheckpoint, LoadError, NotInstalled, checkpoint_folder
from geomfast.lm.own_code import read_object, refuse_adapter_code
from geomfast.measures.memory import out_of_memory

#: What peft saves beside an adapter's weights.
CONFIG = "adapter_config.json"


class NoBase(LoadError):
    """An adapter whose base model is not to be had."""


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder.

    Attributes:
        folder: its own.
        name: as messages call it.
        base: folder of the model that it was trained on.
    """

    folder: Path
    name: str
    base: Path

    def put_on(self, model: nn.Module) -> nn.Module:
        """The base model with the adapter's weights, which alone require gradients, as in training.

        Raises:
            CorruptCheckpoint: the weights are missing or do not fit the model.
        """
        peft: Any = importlib.import_module("peft")
        try:
            # Trainable: frozen, no gradient of theirs could be measured.
            return peft.PeftModel.from_pretrained(model, str(self.folder), is_trainable=True).eval()
        except Exception as error:
            if out_of_memory(error):
                raise
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise CorruptCheckpoint(
                f"{self.name}: the adapter cannot be put on {self.base}: {said[0]}"
            ) from error


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no whole model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def found(folder: Path, name: str, cache_dir: Path | None) -> Adapter:
    """The adapter in a folder, once all that it needs is there.

    Args:
        folder: with :data:`CONFIG`.
        name: for messages.
        cache_dir: of downloads; None for the hub's own.

    Raises:
        CorruptCheckpoint: its configuration cannot be read.
        OwnCode: it names code to import.
        NotInstalled: peft is missing.
        NoBase: the base model is missing; the message names it.
    """
    told = read_object(folder / CONFIG, name)
    refuse_adapter_code(told, CONFIG, name)
    base, revision = told.get("base_model_name_or_path"), told.get("revision")
    if revision is not None and not isinstance(revision, str):
        raise CorruptCheckpoint(
            f"{name}: revision in {folder / CONFIG} is no text but {revision!r:.60}; write null or "
            "the base model's revision there"
        )
    if not isinstance(base, str) or not base:
        raise NoBase(
            f"{name} is an adapter (peft) whose {CONFIG} does not say which model it was trained "
            "on: write its folder or name there, as base_model_name_or_path"
        )
    if importlib.util.find_spec("peft") is None:
        raise NotInstalled(f"{name} is an adapter of {base}, which needs peft: pip install peft")
    # A path may be meant from where training ran, or from where the adapter is.
    beside = folder / base
    if Path(base).expanduser().is_dir():
        revision = None  # of the hub, where the base was when the adapter was trained
    try:
        place = beside if beside.is_dir() else checkpoint_folder(base, revision, cache_dir)
    except LoadError as error:
        raise NoBase(
            f"{name} is an adapter of {base}, which is not to be had: {error}; put the model "
            f"there, or its place into base_model_name_or_path of {CONFIG}"
        ) from error
    if not (place / "config.json").is_file():
        raise NoBase(
            f"{name} is an adapter of {base}, where there is no config.json: not a model of "
            "transformers"
        )
    return Adapter(folder, name, place)
