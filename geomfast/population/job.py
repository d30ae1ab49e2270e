"""Training of a group of members, and measuring of them together: of every kind of population."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

from geomfast.records import parts_of, write_part
from geomfast.runs import cadence
from geomfast.runs.cadence import Cadence
from geomfast.runs.errors import RunError
from geomfast.runs.executors.events import Progress
from geomfast.runs.failures import mark_failed
from geomfast.runs.groups import Group
from geomfast.runs.job import TrainingJob
from geomfast.runs.recorded import of_other_weights, recorded, refuse_gone
from geomfast.runs.training import timed, train_to_checkpoints
from geomfast.testbed.training.members import MembersTrainer

TrainerT = TypeVar("TrainerT", bound=MembersTrainer)


class MembersJob(TrainingJob, Generic[TrainerT]):
    """A group with what it needs to be trained in a process of its own.

    A member whose loss or gradient is not finite stays at its last finite state, has no records
    from there on, and its failure is written down in OUT/failures.

    Attributes:
        group: which members.
        cadence: at how many checkpoints each measure is taken; at all where it is not named.
    """

    group: Group
    cadence: Cadence

    @property
    def name(self) -> str:
        """Name of the group."""
        return self.group.name

    @property
    @abstractmethod
    def measured(self) -> tuple[Sequence[int], tuple[str, ...]]:
        """The steps of all checkpoints, and the measures beside behaviour."""

    @property
    @abstractmethod
    def rate(self) -> float:
        """Peak learning rate."""

    @abstractmethod
    def run_name(self, seed: int) -> str:
        """A member's name in the records."""

    @abstractmethod
    def trainer(self) -> TrainerT:
        """The members at their beginning."""

    @abstractmethod
    def rows(
        self, trainer: TrainerT, failed: Mapping[int, int], names: Collection[str]
    ) -> list[dict[str, Any]]:
        """Records, but for step and tokens, of the members that have not failed.

        Args:
            trainer: the members at a checkpoint.
            failed: seeds of the others.
            names: of the measures, behaviour among them or not.
        """

    def _train(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        lacking = missing(self)
        if not lacking:
            return True
        trainer = self.trainer()
        written: set[int] = set()

        def measured(failed: dict[int, int]) -> None:
            names = lacking.get(trainer.step)
            if names and self._measure(trainer, failed, names):
                written.add(trainer.step)

        ends = min(lacking), max(lacking)
        at = list(self.measured[0])
        if not train_to_checkpoints(self, trainer, at, ends, measured, progress, stop):
            return False
        refuse_gone(self.records, written - recorded(self.records).keys())
        return True

    def _measure(self, trainer: TrainerT, failed: dict[int, int], names: set[str]) -> bool:
        """Measure the members that have not failed and write that; whether there are any."""
        with timed(trainer, "measure"):
            rows = self.rows(trainer, failed, names)
        with timed(trainer, "write"):
            shared = {"step": trainer.step, "tokens": trainer.tokens}
            if rows:
                weights = {row["weights"] for row in rows}
                if other := of_other_weights(self.records, trainer.step, weights):
                    raise RunError(
                        f"{other}: the weights of step {trainer.step} came out different from the "
                        "ones measured there; use the same --threads and --device, or another OUT"
                    )
                shown = [{**shared, **row} for row in rows]
                for path, part in parts_of(self.records, trainer.step, names, shown):
                    write_part(path, part)
            for seed, step in failed.items():
                why = f"loss or gradient not finite at step {step} (learning rate {self.rate:g})"
                mark_failed(self.out, self.run_name(seed), step, why, "")
        return bool(rows)


def wanted(job: MembersJob) -> dict[int, set[str]]:
    """Measures to take at each checkpoint, by step."""
    return cadence.wanted(*job.measured, job.cadence)


def missing(job: MembersJob) -> dict[int, set[str]]:
    """Measures not yet recorded, by checkpoint step; steps with nothing missing are left out.

    Raises:
        PlanError: a file among the group's records is not one of its parts.
    """
    return cadence.lacking(wanted(job), recorded(job.records, job.measured[0][-1]))
