"""Checkpoints that are revisions of a model on the Hugging Face hub."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomfast.files import UnsafeName, inside
from geomfast.lm.hub import NoNetwork, NotInstalled, UnknownModel, fetch
from geomfast.runs.errors import PlanError
from geomfast.series.checkpoint import (
    Checkpoint,
    SourceUnreachable,
    in_order,
    step_of,
)
from geomfast.series.language_model import LanguageModelSeries

#: Endings of files that hold weights, of which one kind is downloaded: the first that is there.
_WEIGHTS = (".safetensors", ".bin")
#: Beginnings of what there is at the top of a cache of the hub.
_OF_THE_CACHE = ("models--", ".locks", "CACHEDIR.TAG", "version", "tmp", "xet")


@dataclass(frozen=True)
class HubSeries(LanguageModelSeries):
    """Revisions of a model on the hub.

    Attributes:
        model: its id.
        downloads: folder for what is downloaded, removed checkpoint by checkpoint; None for the
            cache that all programs of the hub share, where it stays.
    """

    model: str
    downloads: Path | None

    @property
    def where(self) -> str:
        return self.model

    def bytes_of(self, checkpoint: Checkpoint) -> int | None:
        try:
            found = _hub().model_info(self.model, revision=checkpoint.name, files_metadata=True)
        except Exception as error:  # of the network there are many kinds, by version
            raise SourceUnreachable(_said(f"{self.model} at {checkpoint.name}", error)) from error
        sizes = {file.rfilename: file.size for file in found.siblings or () if file.size}
        kinds = [[sizes[name] for name in sizes if name.endswith(kind)] for kind in _WEIGHTS]
        return next((sum(kind) for kind in kinds if kind), None)

    def fetch(self, checkpoint: Checkpoint) -> Path:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()  # they would be drawn from a thread of their own, over ours
        try:
            return fetch(self.model, checkpoint.name, self._place(checkpoint))
        except (NoNetwork, UnknownModel) as error:
            raise SourceUnreachable(str(error)) from error

    def release(self, checkpoint: Checkpoint) -> None:
        if place := self._place(checkpoint):
            remove_download(place)

    def _place(self, checkpoint: Checkpoint) -> Path | None:
        """A cache of its own, so that removing it takes nothing away from other checkpoints."""
        return self.downloads and place_in(self.downloads, checkpoint.folder)


def place_in(downloads: Path, name: str) -> Path:
    """Folder that a checkpoint is downloaded to.

    Raises:
        UnsafeName: the name is not plain, or links there lead somewhere else.
    """
    place = inside(downloads, name)
    for path in (downloads, place):
        if path.is_symlink():
            raise UnsafeName(f"{path} is a link, which downloads do not follow; remove it")
    return place


def remove_download(place: Path) -> None:
    """Remove what :meth:`HubSeries.fetch` has made there, and nothing else: a link stays, and a
    folder in which something is that the hub's cache does not make."""
    if place.is_symlink() or not place.is_dir():
        return
    if all(entry.name.startswith(_OF_THE_CACHE) for entry in place.iterdir()):
        shutil.rmtree(place, ignore_errors=True)


def _hub() -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise NotInstalled(f'{error}: pip install "geomfast[hf]"') from error
    return HfApi()


def revisions_of(model: str, asked: Sequence[str]) -> tuple[Checkpoint, ...]:
    """Checkpoints of a model on the hub.

    Args:
        model: its id, for instance ``EleutherAI/pythia-160m``.
        asked: revisions; ``all`` alone for every branch and tag whose name tells a step; none for
            the main branch.

    Raises:
        PlanError: they do not tell which is which, there are none, or no such model.
        SourceUnreachable: all of them are asked for, and the hub does not answer.
    """
    if not asked:
        return in_order(["main"], model)
    if list(asked) != ["all"]:
        return in_order(asked, model)
    hub = _hub()
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        refs = hub.list_repo_refs(model)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise PlanError(f"{model!r} is neither a folder nor a model of the hub") from error
    except Exception as error:
        raise SourceUnreachable(_said(f"the revisions of {model}", error)) from error
    names = dict.fromkeys(ref.name for ref in (*refs.branches, *refs.tags))
    told = [name for name in names if step_of(name) is not None]
    if not told:
        there = ", ".join(names)
        raise PlanError(f"{model}: no branch or tag is named like a step; it has {there}")
    return in_order(told, model)


def _said(what: str, error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"cannot look up {what} on the hub: {type(error).__name__}: {first}"
