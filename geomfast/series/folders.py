"""Checkpoints in folders, each as transformers saves a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geomfast.lm.adapters import CONFIG, is_adapter
from geomfast.runs.errors import PlanError
from geomfast.series.checkpoint import Checkpoint, in_order, step_of
from geomfast.series.language_model import LanguageModelSeries


@dataclass(frozen=True)
class FolderSeries(LanguageModelSeries):
    """Checkpoints in a folder.

    Attributes:
        source: the folder that their folders are in.
    """

    source: Path

    @property
    def where(self) -> str:
        return str(self.source)

    def tokenizer(self, folder: Path) -> Path | None:
        # The trainer of transformers may leave it beside the checkpoints.
        here, above = (any(place.glob("tokenizer*")) for place in (folder, self.source))
        return self.source if above and not here else None

    def bytes_of(self, checkpoint: Checkpoint) -> int | None:
        return 0

    def fetch(self, checkpoint: Checkpoint) -> Path:
        return self.source / checkpoint.name

    def release(self, checkpoint: Checkpoint) -> None:
        pass


def checkpoints_in(source: Path) -> tuple[Path, tuple[Checkpoint, ...]]:
    """The checkpoints of a folder, which may be one itself, and the folder that they are in.

    Adapters of peft count as the checkpoints that they are.

    A folder that is named like a checkpoint but has no ``config.json`` counts, unless another one
    is a checkpoint of that step: what is missing is reported when its turn comes.

    Raises:
        PlanError: there is none, or their names do not tell which is which.
    """
    source = source.resolve()
    if _holds_one(source):
        return source.parent, in_order([source.name], str(source.parent))
    inside = [folder for folder in sorted(source.iterdir()) if folder.is_dir()]
    whole = [folder.name for folder in inside if _holds_one(folder)]
    if not whole:
        raise PlanError(
            f"{source}: neither a geomfast sweep, nor a model of transformers (config.json) or an "
            f"adapter ({CONFIG}), nor a folder of them"
        )
    there = {step_of(name) for name in whole}
    named = [folder.name for folder in inside if step_of(folder.name) not in (None, *there)]
    return source, in_order(dict.fromkeys((*whole, *named)), str(source))


def _holds_one(folder: Path) -> bool:
    return (folder / "config.json").is_file() or is_adapter(folder)
