"""Checkpoints of the Hugging Face hub as local folders, and what can go wrong on the way."""

from __future__ import annotations

import os
from pathlib import Path

#: Beside weights: what a model and its tokenizer need, at the top of a repository.
_SMALL_FILES = ["*.json", "*.txt", "*.model"]
# The same weights once more, under other names.
_LEFT_OUT = ["*/*", "consolidated*", "flax_model*", "tf_model*"]


class LoadError(Exception):
    """A model cannot be loaded; the message says which, and why."""


class NoNetwork(LoadError):
    """The hub cannot be reached, or does not answer as it should."""


class UnknownModel(LoadError):
    """Neither a folder nor a model of the hub."""


class UnknownRevision(LoadError):
    """The model is there; the revision is not."""


class NoTokenizer(LoadError):
    """A checkpoint without a tokenizer that can be loaded."""


class CorruptCheckpoint(LoadError):
    """Files are there, but no whole model."""


class OwnCode(LoadError):
    """A checkpoint that only code of its own, or of others, could load; it is not run."""


class NotInstalled(LoadError):
    """An optional package is missing."""


def checkpoint_folder(
    source: str | os.PathLike[str], revision: str | None = None, cache_dir: Path | None = None
) -> Path:
    """The folder of a checkpoint, fetched from the hub unless the source is a folder.

    Args:
        source: a folder, or a model's name on the hub (`owner/name`).
        revision: branch, tag or commit on the hub; None for its main one.
        cache_dir: of downloads; None for the hub's own.

    Raises:
        LoadError: no such folder; a revision of a folder; whatever :func:`fetch` raises.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UnknownRevision(f"{folder} is a folder, which has no revision {revision!r}")
        return folder
    name = os.fspath(source)
    if folder.exists():
        raise UnknownModel(f"{folder} is a file, not the folder of a checkpoint")
    if name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        raise UnknownModel(f"no such folder: {folder}")
    return fetch(name, revision, cache_dir)


def fetch(name: str, revision: str | None = None, cache_dir: Path | None = None) -> Path:
    """Downloads a checkpoint, or finds it in the cache.

    Weights are taken as safetensors where the hub has them, and else as torch's own files.

    Args:
        name: of the model on the hub.
        revision: branch, tag or commit; None for the main one.
        cache_dir: None for the hub's own.

    Returns:
        The folder of the files, in the cache.

    Raises:
        NoNetwork, UnknownModel, UnknownRevision: as they say; the message names the revision.
        NotInstalled: huggingface_hub is missing.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise NotInstalled(f'{error}: pip install "geomfast[hf]"') from error

    at = name if revision is None else f"{name} at revision {revision}"

    def download(*weights: str) -> Path:
        patterns = [*_SMALL_FILES, *weights]
        found = snapshot_download(
            name,
            revision=revision,
            cache_dir=cache_dir,
            allow_patterns=patterns,
            ignore_patterns=_LEFT_OUT,
        )
        return Path(found)

    try:
        folder = download("*.safetensors")
        if not any(folder.glob("*.safetensors")):
            folder = download("*.bin")
    except errors.RevisionNotFoundError as error:
        raise UnknownRevision(f"{name} has no revision {revision!r} on the hub") from error
    except errors.GatedRepoError as error:
        raise UnknownModel(
            f"{name} is not open to all: accept its terms on the hub and log in"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UnknownModel(f"{name!r} is neither a folder nor a model of the hub") from error
    except Exception as error:  # of the network there are many kinds, by version and transport
        raise NoNetwork(f"cannot fetch {at} from the hub: {_first_line(error)}") from error
    return folder


def _first_line(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__
