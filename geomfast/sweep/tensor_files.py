"""Files of tensors that checkpoints of a run leave for later ones."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from geomfast.files import write_atomically
from geomfast.testbed.training.checkpoints import CheckpointError, tensors_hash

#: More bytes than this are not written with every checkpoint, so that the next one has none.
LARGEST_FILE = 1 << 30
_HASH = "sha256"
_WAY_ON = "delete it, and the next checkpoint is measured without it"


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors by name, with a hash that :func:`read_tensors` knows them again by."""
    content = safetensors.torch.save(tensors, {_HASH: tensors_hash(tensors)})
    write_atomically(path, content)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a file, as they were written.

    Raises:
        CheckpointError: damaged.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            told = (file.metadata() or {}).keys() - {"format"}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            seal = file.metadata().get(_HASH) if told else None
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; {_WAY_ON}") from error
    # Those of geomfast 0.1 say nothing.
    if told and (told != {_HASH} or seal != tensors_hash(found)):
        raise CheckpointError(f"{path} has changed since it was written; {_WAY_ON}")
    return found
