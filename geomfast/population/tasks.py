"""The tasks of populations trained from nothing, of two kinds. Does not import torch.

Length generalisation is tested on longer examples than are trained on, grammatical generalisation
on sentences that two rules treat differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geomfast.population.test_sets import TestSet, grammar_sets, length_sets
from geomfast.testbed.tasks import GRAMMAR_TASKS, LENGTH_TASKS
from geomfast.testbed.tasks.grammar import GrammarTask
from geomfast.testbed.tasks.lengths import LengthTask, check_lengths, training_lengths

if TYPE_CHECKING:  # which need torch
    from geomfast.testbed.training.grammar_batches import GrammarBatches
    from geomfast.testbed.training.length_batches import LengthBatches

#: From scales that hardly learn to ones that mostly do; width and depth grow in turn.
_LADDER = ("1x8", "1x16", "2x16", "2x32", "3x32", "3x64", "4x64")
_TRAIN_LENGTHS = {"count": 12, "reverse-add": 5}
_TEST_LENGTHS = {"count": (16, 24), "reverse-add": (7, 10)}


@dataclass(frozen=True)
class Defaults:
    """Settings of a task's population where none are given.

    Attributes:
        scales: names.
        steps, batch_size: of training.
        train_length, test_lengths: 0 and none for a task without lengths.
    """

    scales: tuple[str, ...]
    steps: int
    batch_size: int
    train_length: int = 0
    test_lengths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Variant:
    """What a task takes from a population's settings.

    Attributes:
        train_length: longest examples trained on.
        lengths: all that are tested on, ascending.
        mixture, embedded: shares of sentences, see
            :meth:`geomfast.testbed.tasks.grammar.GrammarTask.draw`.
        batch_size: examples per member and step.
        samples: of each test set.
    """

    train_length: int
    lengths: tuple[int, ...]
    mixture: float
    embedded: float
    batch_size: int
    samples: int

    @property
    def longest(self) -> int:
        """Length that vocabulary and positions suffice for."""
        return max(self.lengths)


@dataclass(frozen=True)
class LengthGeneralisation:
    """A task of length generalisation as a population's."""

    task: LengthTask

    #: Settings that it has, of those that not every task has.
    takes = ("train_length", "test_lengths")
    #: Those that a state of training has to have in common with a run that resumes from it.
    shapes_training = ("train_length",)

    @property
    def defaults(self) -> Defaults:
        """Settings where none are given."""
        name = self.task.option
        return Defaults(_LADDER, 2000, 16, _TRAIN_LENGTHS[name], _TEST_LENGTHS[name])

    def check(self, of: Variant) -> None:
        """Refuse what cannot be trained.

        Raises:
            ValueError: names the setting and what is possible.
        """
        check_lengths(self.task, of.train_length, of.lengths)
        training_lengths(of.batch_size, of.train_length)

    def table_sizes(self, of: Variant) -> tuple[int, int]:
        """Ids and positions that a model needs."""
        return self.task.vocabulary(of.longest), self.task.context(of.longest)

    def test_sets(self, of: Variant) -> list[TestSet]:
        """What members are tested on."""
        return length_sets(self.task, of.lengths, of.samples, of.longest)

    def batches(self, of: Variant, device: str) -> LengthBatches:
        """What members are trained on; the same for each but for its seed."""
        from geomfast.testbed.training.length_batches import LengthBatches

        return LengthBatches(self.task, of.train_length, of.longest, of.batch_size, device)


@dataclass(frozen=True)
class GrammaticalGeneralisation:
    """A grammar task as a population's."""

    task: GrammarTask

    takes = shapes_training = ("mixture", "embedded")

    @property
    def defaults(self) -> Defaults:
        """Settings where none are given."""
        return Defaults(("2x64",), 2000, 48)

    def check(self, of: Variant) -> None:
        """Refuse what cannot be trained.

        Raises:
            ValueError: names the setting and what is possible.
        """
        for name, share in (("mixture", of.mixture), ("embedded", of.embedded)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} = {share:g} is not a share from 0 to 1")
        if of.batch_size < (least := len(self.task.lengths)):
            raise ValueError(
                f"batch_size = {of.batch_size}: a step has sentences of all {least} lengths"
            )

    def table_sizes(self, of: Variant) -> tuple[int, int]:
        """Ids and positions that a model needs."""
        del of
        return self.task.vocabulary, self.task.context

    def test_sets(self, of: Variant) -> list[TestSet]:
        """What members are tested on."""
        return grammar_sets(self.task, of.samples)

    def batches(self, of: Variant, device: str) -> GrammarBatches:
        """What members are trained on; the same for each but for its seed."""
        from geomfast.testbed.training.grammar_batches import GrammarBatches

        return GrammarBatches(self.task, of.mixture, of.embedded, of.batch_size, device)


PopulationTask = LengthGeneralisation | GrammaticalGeneralisation
#: By their names on the command line.
TASKS: dict[str, PopulationTask] = {
    **{name: LengthGeneralisation(task) for name, task in LENGTH_TASKS.items()},
    **{name: GrammaticalGeneralisation(task) for name, task in GRAMMAR_TASKS.items()},
}


def not_taken(task: str, given: Sequence[str]) -> list[str]:
    """Those of the settings given that only tasks of another kind have."""
    every: dict[str, Any] = {name: None for one in TASKS.values() for name in one.takes}
    return [name for name in given if name in every and name not in TASKS[task].takes]
