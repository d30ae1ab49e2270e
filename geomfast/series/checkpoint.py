"""Base classes of all sources of checkpoints."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from geomfast.files import UnsafeName, plain_name
from geomfast.measures import Need, needing, spec_of
from geomfast.measures.spec import BEHAVIOUR, OF_ACTIVATIONS, OF_ANSWERS
from geomfast.runs.errors import PlanError, RunError

# step1000, global_step1000, checkpoint-500, stage1-step1000-tokens5B, step-00000012
_STEP = re.compile(
    r"(?:.*[-_./])?(?:global_?)?(?:step|checkpoint|ckpt|iter)[-_=]?(\d+)(?:[-_.].*)?", re.IGNORECASE
)


#: Steps are written down as 64-bit integers.
_LARGEST_STEP = 2**63 - 1
_FRACTION = re.compile(r"(?:step|checkpoint|ckpt|iter)[-_=]?\d+\.\d+(?![^-_])", re.IGNORECASE)


class SourceUnreachable(RunError):
    """A source that gives no checkpoint at present, as without a network; says what was tried."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights of a training at one moment.

    Attributes:
        step: optimiser steps taken.
        name: of its folder or revision.
    """

    step: int
    name: str

    @property
    def folder(self) -> str:
        """A name for a folder of its own: no two checkpoints' are the same, on any file system."""
        plain = self.name == self.name.lower() and self.name.isascii() and "~" not in self.name
        try:
            if plain:
                return plain_name(self.name, "revision")
        except UnsafeName:
            pass  # ``refs/pr/1`` is a good revision, and ``..`` a name like any other
        # No revision of git has a ~ in its name, so that no plain one is like this.
        told = re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-.")[:60]
        digest = hashlib.sha256(self.name.encode(errors="surrogatepass")).hexdigest()[:32]
        return f"{told or 'revision'}~{digest}"


class Opened(Protocol):
    """A checkpoint in memory.

    Attributes:
        weights: hash of its weights.
        parameters: how many it has; None where scales are told apart without.
        tokens: real training tokens seen so far; None where nothing says.
        described: settings and samples of the rows that have been taken, by their hashes.
        notices: what a reader of its records should know: samples skipped, batches halved.
    """

    weights: str
    parameters: int | None
    tokens: int | None
    described: dict[str, dict[str, Any]]
    notices: list[str]

    def take(self, measures: set[str]) -> list[dict[str, Any]]:
        """Takes some measures.

        Returns:
            Rows of :data:`geomfast.records.COLUMNS`, without what names run and checkpoint.
        """
        ...


class Series(Protocol):
    """Checkpoints of one training run, ascending by step; a frozen dataclass that can be pickled.

    Attributes:
        run, scale, seed: as its records name them.
        checkpoints: all of them.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def run(self) -> str: ...

    @property
    def scale(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]: ...

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of those it can be measured with, beside behaviour."""
        ...

    @property
    def chance(self) -> dict[str, float]:
        """Rate at which a blind guess is right, by task-level name."""
        ...

    def shared(self) -> dict[str, Any]:
        """Settings that all values share; what they are measured on is among them."""
        ...

    def of(self, measure: str) -> dict[str, Any]:
        """Settings that shape the values of a measure."""
        ...

    def groups(self, measures: set[str]) -> list[set[str]]:
        """The measures in the order they are taken, those together that share their work."""
        ...

    def bytes_of(self, checkpoint: Checkpoint) -> int | None:
        """Bytes to download before it can be opened; None where that is not known."""
        ...

    def fetch(self, checkpoint: Checkpoint) -> Path:
        """Bring its files to this machine, however long that takes; its folder.

        Raises:
            SourceUnreachable: now no other checkpoint would come either.
            CheckpointError: there is no such checkpoint.
        """
        ...

    def release(self, checkpoint: Checkpoint) -> None:
        """Remove what :meth:`fetch` has brought, all of it or in part."""
        ...

    def open(self, checkpoint: Checkpoint, folder: Path, device: str) -> Opened:
        """Load it from the folder that :meth:`fetch` gave.

        Raises:
            CheckpointError: it is damaged, or of a kind that cannot be measured.
        """
        ...


def step_of(name: str) -> int | None:
    """The step that the name of a checkpoint tells, as in ``step1000`` or ``checkpoint-500``."""
    found = _STEP.fullmatch(name)
    return int(found[1]) if found else None


def tells_a_fraction(name: str) -> bool:
    """Whether the step that a name tells is not whole, as in ``step1000.5``."""
    return _FRACTION.search(name) is not None


def in_order(names: Iterable[str], where: str) -> tuple[Checkpoint, ...]:
    """Checkpoints by step.

    Args:
        names: of their folders or revisions.
        where: they are, for messages.

    Raises:
        PlanError: there is none, a name among several tells no step, two tell the same, or a step
            is no whole number of 64 bits.
    """
    names = list(names)
    if not names:
        raise PlanError(f"{where}: no checkpoints")
    for name in names:
        if (step_of(name) or 0) > _LARGEST_STEP:
            raise PlanError(f"{where}: {name[:80]!r} tells a step beyond 64 bits; rename it")
        if tells_a_fraction(name):
            raise PlanError(f"{where}: {name[:80]!r} tells a step that is not whole; rename it")
    if len(names) == 1:  # of one that stands alone nothing depends on the step
        return (Checkpoint(step_of(names[0]) or 0, names[0]),)
    by_step: dict[int, str] = {}
    for name in names:
        step = step_of(name)
        if step is None:
            raise PlanError(
                f"{where}: {name!r} does not tell its step, as step1000 or checkpoint-1000 do"
            )
        if step in by_step:
            raise PlanError(
                f"{where}: {by_step[step]!r} and {name!r} are both of step {step}; move one away"
            )
        by_step[step] = name
    return tuple(Checkpoint(step, by_step[step]) for step in sorted(by_step))


def apart(measures: set[str]) -> list[set[str]]:
    """Measures as groups: those that share a pass over the samples, then each of the others.

    One that takes the computation of another is in that one's group.
    """
    seen = {BEHAVIOUR, *needing(measures, *OF_ACTIVATIONS, *OF_ANSWERS)} & measures
    ranks = set(needing(measures, Need.GRADIENTS))
    alike: dict[str, set[str]] = {}
    for name in sorted(measures - seen - ranks):
        alike.setdefault(spec_of(name).shares or name, set()).add(name)
    return [group for group in (seen, ranks) if group] + [alike[name] for name in sorted(alike)]
