"""What is left of a run, and the time, memory and disk it takes: formulas times a measured pace.

What the estimate cannot know: how many products an eigenvalue takes, the disk's speed
(:data:`DISK`), and who else uses the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geomfast.models.scales import SCALES
from geomfast.sweep.cell import Job, missing, schedule, wanted
from geomfast.sweep.footprint import disk_bytes, eigenvector_bytes, memory_bytes, state_bytes
from geomfast.sweep.pace import Pace
from geomfast.sweep.stacked_cells import StackedJob
from geomfast.sweep.wall import TRAINING, WRITING
from geomfast.sweep.workload import Workload, batch_tokens
from geomfast.training.checkpoints import steps_kept, steps_saved
from geomfast.training.stacking import member_bytes

#: In words, for whoever reads an estimate.
UNCERTAINTY = "time within a factor of 2 or 3, memory and disk within 2"
#: Bytes a second that checkpoints are written with, hashes included.
DISK = 4e8
# Seconds until a file is on the disk.
_SYNC = 0.01


@dataclass(frozen=True)
class Left:
    """What of a run is not done yet.

    Attributes:
        measures: names by checkpoint step.
        steps: to train, from the last state that can be resumed from.
        saves: checkpoints to write on the way.
    """

    measures: dict[int, set[str]]
    steps: int
    saves: int


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
    """

    run: str
    checkpoints: int
    of: int
    steps: int
    seconds: dict[str, float]
    memory: int
    disk: int

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
    if not trained:
        return Left(measures, 0, 0)
    start = max([s for s in steps_saved(states or job.checkpoints) if s <= min(trained)], default=0)
    last = max(trained)
    saves = sum(start < step <= last for step in schedule(job.settings))
    return Left(measures, last - start, saves)


def left_together(group: StackedJob) -> list[Left]:
    """The same of every member of a group, which are trained as far as any of them needs."""
    each = [left(job, group.checkpoints) for job in group.members]
    steps, saves = max(part.steps for part in each), max(part.saves for part in each)
    return [Left(part.measures, steps, saves) for part in each]


def estimate(job: Job, todo: Left, pace: Pace) -> Estimate:
    """Time, memory and disk that a run still takes.

    Args:
        job: the run.
        todo: what is left of it.
        pace: of its scale on its device.
    """
    work = Workload(job, pace)
    seconds = {TRAINING: todo.steps * work.step()}
    for names in todo.measures.values():
        for name, value in work.checkpoint(names).items():
            seconds[name] = seconds.get(name, 0.0) + value
    searches = sum("hessian_top" in names for names in todo.measures.values())
    written = todo.saves * state_bytes(job) + searches * eigenvector_bytes(job)
    seconds[WRITING] = (4 * todo.saves + len(todo.measures)) * _SYNC + written / DISK
    every = wanted(job)
    return Estimate(
        run=job.cell.run,
        checkpoints=len(todo.measures),
        of=len(every),
        steps=todo.steps,
        seconds=seconds,
        memory=memory_bytes(job, todo.measures.values()),
        disk=disk_bytes(job, every.values()),
    )


def together(group: StackedJob, found: Sequence[Estimate]) -> Estimate:
    """What is left of a group: the sum of its members, but for memory, which programs share.

    Args:
        group: which.
        found: of its members with something left, trained as if by themselves.
    """
    members = group.members
    seconds: dict[str, float] = {}
    for part in found:
        for what, value in part.seconds.items():
            seconds[what] = seconds.get(what, 0.0) + value
    scale = SCALES[members[0].cell.scale]
    program = group.at_once * member_bytes(scale, round(batch_tokens(members[0])))
    states = len(members) * state_bytes(members[0])
    return Estimate(
        run=group.name,
        checkpoints=max(part.checkpoints for part in found),
        of=max(part.of for part in found),
        steps=max(part.steps for part in found),
        seconds=seconds,
        # While members are measured one by one, the states of all stay where they are.
        memory=max(part.memory for part in found) + states + program,
        disk=sum(part.disk for part in found),
    )
