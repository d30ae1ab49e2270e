"""Subjects of measures, results of their forward passes, policies, and states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from geomfast.estimators.checks import LossFunction
from geomfast.measures.memory import Notice, logger


@dataclass(frozen=True)
class Samples:
    """One set of samples that a subject is measured on.

    Attributes:
        named: what names it in a row: task, level, data, n.
        loss_fn: of every sample; None where only activations are measured.
        data: one batch, or batches, that it takes; None likewise.
        answers: (N,) class that linear probes read off; None where there is none.
        groups: (N,) number of every sample's input.
    """

    named: Mapping[str, Any]
    loss_fn: LossFunction | None = None
    data: Any = None
    answers: Tensor | None = None
    groups: Tensor | None = None


@dataclass(frozen=True)
class Value:
    """One value of one set of samples.

    Attributes:
        name: of its record.
        value, stderr: one for every member; NaN for an error that is not defined.
        layer: its label; empty where there is none.
        verdict: how reliable the value is; may be empty.
    """

    name: str
    value: Sequence[float]
    stderr: Sequence[float]
    layer: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Seen:
    """Result of a forward pass over one set of samples.

    Attributes:
        states: labels of layers, and their activations (members, layers, N, d); layers of several
            shapes are several such pairs. Where a subject is one model it is one member.
        behaviour: what the model does with the samples.
        right: (N,) 1 where the model's own first answer is right.
        classifier: (K, d) weights that the final state is read by, a row for every answer.
    """

    states: Sequence[tuple[Sequence[str], Tensor]]
    behaviour: Sequence[Value] = ()
    right: Tensor | None = None
    classifier: Tensor | None = None


class Subject(ABC):
    """The subject of measures: one model, or several that share a pass.

    Attributes:
        model: that losses are of, as it is to be measured; whatever observes itself where no
            measure of a loss is taken.
        sets: of samples.
        members: how many models it is.
        learning_rate: of the training at this moment, where it is known.
    """

    model: Any
    sets: Sequence[Samples]
    members: int = 1
    learning_rate: float | None = None

    @property
    def sampled(self) -> Sequence[Samples]:
        """The sets that chains are run on."""
        return self.sets

    @abstractmethod
    def observe(self) -> Sequence[Seen]:
        """One forward pass over every set."""


class Earlier(Protocol):
    """What a measure has kept of one set of samples at earlier checkpoints."""

    @property
    def steps(self) -> Mapping[int, Mapping[str, Tensor]]:
        """Tensors by name, by step, from the first checkpoint to the last; not of all of them."""
        ...

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Notes those of this checkpoint."""


class State(Protocol):
    """State that a checkpoint passes to the next one, by the number of a set of samples."""

    def start(self, number: int, of: str = "") -> Tensor | None:
        """Vectors near the top eigenvectors of the set's Hessian, of an earlier checkpoint.

        Those of one measure alone, where it is named.
        """

    def keep(self, number: int, vectors: Tensor, of: str = "") -> None:
        """Notes those found."""

    def earlier(self, measure: str, number: int) -> Earlier | None:
        """What a measure of layers has kept; None where nothing is kept for it."""
        ...


@dataclass(frozen=True)
class Policy:
    """Options for taking measures that change values by rounding at most.

    Attributes:
        batch_size: samples at once for products with the Hessian; None for a batch as it comes.
            Halved where memory does not suffice, as are those of the other measures.
        check: see that no sample's gradient depends on the other samples.
        notice: called with a message when memory is short and a computation is changed.
        failed: called when a measure fails, whose value then is NaN; None to raise.
    """

    batch_size: int | None = None
    check: bool = True
    notice: Notice = logger.warning
    failed: Callable[[str, Exception], None] | None = None
