"""Base classes of all work: its name, its folders, and the lock that one process holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from geomfast.runs.executors.events import Progress
from geomfast.runs.locks import locked
from geomfast.testbed.training import checkpoints


class Job(ABC):
    """Work that can run in a process of its own; subclasses are frozen dataclasses.

    Attributes:
        out: folder of the results.
        device: where the work is done.
        threads: CPU threads; results are bit-identical for the same number.
    """

    out: Path
    device: str
    threads: int

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the job, the only one of that name in ``out``."""

    @property
    @abstractmethod
    def cost(self) -> float:
        """Work to do next to that of other jobs, in a unit of their own."""

    @property
    def records(self) -> Path:
        """Folder of the record parts."""
        return self.out / "records" / self.name

    @property
    def lock_folder(self) -> Path:
        """Folder that the process at work holds."""
        return self.out / ".jobs" / self.name

    def run(
        self,
        progress: Progress = lambda step, state: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Do the work from wherever it was left.

        Args:
            progress: called now and then with the step reached and the state there.
            stop: asked now and then; when true the work is saved and left, also where
                :func:`geomfast.estimators.stopping.stopped_by` ends a measure.

        Returns:
            Whether nothing is left to do.

        Raises:
            FolderInUse: another process is at it.
            RunError, CheckpointError, TrainingDiverged, OSError: it cannot be resumed, or not
                finished; what was written before stays readable.
        """
        with locked(self.lock_folder, f"{self.name} in {self.out}"):
            torch.set_num_threads(self.threads)
            return self._work(progress, stop)

    @abstractmethod
    def _work(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        """:meth:`run`, once the folder is held."""


class TrainingJob(Job):
    """Training of one run, or of the members of a group, and measuring at its checkpoints.

    Attributes:
        state_every: seconds between the states that training can be resumed from, at least; no
            number depends on it.
    """

    state_every: float

    @property
    def members(self) -> Sequence[TrainingJob]:
        """Jobs whose folders hold the records, with an equal share of the wall time each."""
        return (self,)

    @property
    def checkpoints(self) -> Path:
        """Folder of the states that training is resumed from."""
        return self.out / "checkpoints" / self.name

    @property
    def lock_folder(self) -> Path:
        """The folder of checkpoints."""
        return self.checkpoints

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Values that a state must match before training resumes from it.

        Threads and device are among it: sums in another order give other bits, and training is one
        computation from its first step to its last.
        """

    @property
    def _place(self) -> dict[str, Any]:
        """The device's type and the threads, as part of an identity."""
        return {"device": torch.device(self.device).type, "threads": self.threads}

    def _work(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        for job in (self, *self.members):
            checkpoints.remove_partial_writes(job.checkpoints)
            for remains in job.records.glob(".tmp-*"):
                remains.unlink(missing_ok=True)
        return self._train(progress, stop)

    @abstractmethod
    def _train(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        """:meth:`run`, once nothing is left of writes that were killed."""
