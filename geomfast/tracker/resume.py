"""Checks the records of a run that a tracker resumes, and whether it is the same run."""

from __future__ import annotations

from geomfast.tracker.folder import RunFolder

_REMEDY = "give it a name of its own (run=...), or another folder (out=...)"


class ResumeCheck:
    """The steps that trackers before this one have recorded.

    Nothing is filled in between them, and each that comes again is compared by the hash of its
    weights: a resumed training is recorded from there on, and one that begins anew and
    is another is not recorded at all.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder):
        self.folder, self.steps = folder, folder.before
        self.last = max(self.steps, default=-1)
        #: Whether the training is another one than the records'.
        self.another = False
        self._run = folder.called
        self._first: int | None = None

    def notice(self) -> str | None:
        """Message about the earlier records when the tracker is created."""
        if not self.steps:
            return None
        return (
            f"continuing {self._run}: {len(self.steps)} steps are recorded, the last is {self.last}"
        )

    def must_compare(self, step: int) -> bool:
        """Notes a step; whether its weights are to be compared with those recorded."""
        self._first = step if self._first is None else self._first
        return step in self.steps and not self.another

    def compare(self, step: int, weights: str) -> str | None:
        """Message if a step was recorded with other weights; None if not.

        Args:
            step: recorded before.
            weights: hash of those that the model has now.
        """
        if not self.folder.of_other_weights(step, weights):
            return None
        # A resumed training begins after its first steps. What it then repeats may
        # come out with another rounding, on a GPU for instance.
        beginning = min((s for s in self.steps if s > 0), default=0)
        if self._first is None or self._first <= beginning:
            self.another = True
            return (
                f"step {step} of {self._run} is recorded with other weights: this is another "
                f"training, of which nothing is recorded; {_REMEDY}"
            )
        return (
            f"{self._run} is recorded up to step {self.last} with other weights than these, as "
            "where a device rounds differently the second time; those records stay, and new ones "
            "follow. "
            f"If this is another training, {_REMEDY}"
        )
