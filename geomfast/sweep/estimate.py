"""What is left of a run, and the time, memory and disk it takes: formulas times a pace.

The pace is measured on the machine at hand, or that of a GPU that is assumed.

What the estimate cannot know: how many products an eigenvalue takes, the disk's speed
(:data:`DISK`), and who else uses the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geomfast.runs.states import states_written
from geomfast.runs.wall import TRAINING, WRITING
from geomfast.sweep.assumed import Assumed
from geomfast.sweep.footprint import (
    disk_bytes,
    eigenvector_bytes,
    group_bytes,
    memory_bytes,
    searches,
    state_bytes,
)
from geomfast.sweep.jobs import Job, StackedJob, missing, schedule, wanted
from geomfast.sweep.modelled import Modelled, Part, parts_of
from geomfast.sweep.pace import Pace
from geomfast.sweep.workload import Workload
from geomfast.testbed.training.checkpoints import steps_kept, steps_saved

#: In words, for whoever reads an estimate.
UNCERTAINTY = "time within a factor of 2 or 3, memory and disk within 2"
#: The same of one that rests on assumptions.
MODELLED = "modelled, nothing measured on this device"
#: Bytes a second that states are written with, hashes included.
DISK = 4e8
#: The same that weights are hashed with, for the records to name.
HASHING = 1e9
#: Seconds until a file is on the disk.
SYNC = 0.01


@dataclass(frozen=True)
class Left:
    """What of a run is not done yet.

    Attributes:
        measures: names by checkpoint step.
        steps: to train, from the last state that can be resumed from.
        saves: checkpoints on the way, at which a state may be due.
        states: that are there already.
    """

    measures: dict[int, set[str]]
    steps: int
    saves: int
    states: int = 0


@dataclass(frozen=True)
class Estimate:
    """What is left of a run and what that takes.

    Attributes:
        run: its name.
        checkpoints, of: checkpoints with something left to measure, and all.
        steps: left to train.
        seconds: by what they go into: training, writing, and each measure.
        memory: bytes at the peak, on the device.
        disk: bytes in OUT when it is done, those there already included.
        parts: what the seconds are made of, where they are those of a GPU that is assumed.
    """

    run: str
    checkpoints: int
    of: int
    steps: int
    seconds: dict[str, float]
    memory: int
    disk: int
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds altogether."""
        return sum(self.seconds.values())


def left(job: Job, states: Path | None = None) -> Left:
    """What of a run is not done yet.

    Args:
        job: the run.
        states: folder of the checkpoints it is resumed from, its own without.

    Raises:
        PlanError: a file among the run's records is not one of its parts.
    """
    measures = missing(job)
    kept = set(steps_kept(job.checkpoints))
    trained = [step for step in measures if step not in kept]
    saved = steps_saved(states or job.checkpoints)
    if not trained:
        return Left(measures, 0, 0, len(saved))
    start = max([step for step in saved if step <= min(trained)], default=0)
    last = max(trained)
    saves = sum(start < step <= last for step in schedule(job.settings))
    return Left(measures, last - start, saves, len(saved))


def left_together(group: StackedJob) -> list[Left]:
    """The same of every member of a group, which are trained as far as any of them needs."""
    each = [left(job, group.checkpoints) for job in group.members]
    steps, saves = max(part.steps for part in each), max(part.saves for part in each)
    return [Left(part.measures, steps, saves, part.states) for part in each]


def estimate(job: Job, todo: Left, pace: Pace | Assumed) -> Estimate:
    """Time, memory and disk that a run still takes.

    Args:
        job: the run.
        todo: what is left of it.
        pace: of its scale on its device; or the device, where it is assumed.
    """
    parts: dict[str, Part] = {}
    if isinstance(pace, Assumed):
        parts = parts_of(Modelled(job, pace), list(todo.measures.values()), todo.steps)
        seconds = {name: part.seconds for name, part in parts.items()}
    else:
        work = Workload(job, pace)
        seconds = {TRAINING: todo.steps * work.step()}
        for names in todo.measures.values():
            for name, value in work.checkpoint(names).items():
                seconds[name] = seconds.get(name, 0.0) + value
    states = states_written(todo.saves, sum(seconds.values()), job.state_every)
    searched = sum(bool(searches(names)) for names in todo.measures.values())
    weights = todo.saves - states if job.keep == "all" else 0
    files = 4 * states + 3 * weights + 2 * len(todo.measures)
    written = state_bytes(job) * (states + weights / 3) + searched * eigenvector_bytes(job)
    hashed = len(todo.measures) * state_bytes(job) / 3
    waits = files * SYNC
    if isinstance(pace, Assumed):
        waits += written / pace.disk.value + hashed / pace.hashing.value
        waits += (written + hashed) / pace.transfer.value
        parts[WRITING] = Part(moved=written + hashed, seconds=waits)
    else:
        waits += written / DISK + hashed / HASHING
    seconds[WRITING] = waits
    every = wanted(job)
    return Estimate(
        run=job.cell.run,
        checkpoints=len(todo.measures),
        of=len(every),
        steps=todo.steps,
        seconds=seconds,
        memory=memory_bytes(job, todo.measures.values()),
        disk=disk_bytes(job, every.values(), todo.states + states),
        parts=parts,
    )


def together(group: StackedJob, found: Sequence[Estimate]) -> Estimate:
    """What is left of a group: the sum of its members, but for memory, which programs share.

    Args:
        group: which.
        found: of its members with something left, trained as if by themselves.
    """
    seconds: dict[str, float] = {}
    for part in found:
        for what, value in part.seconds.items():
            seconds[what] = seconds.get(what, 0.0) + value
    parts: dict[str, Part] = {}
    for name, part in (pair for each in found for pair in each.parts.items()):
        parts[name] = parts.get(name, Part()) + part
    return Estimate(
        run=group.name,
        checkpoints=max(part.checkpoints for part in found),
        of=max(part.of for part in found),
        steps=max(part.steps for part in found),
        seconds=seconds,
        memory=group_bytes(group, max(part.memory for part in found)),
        disk=sum(part.disk for part in found),
        parts=parts,
    )
