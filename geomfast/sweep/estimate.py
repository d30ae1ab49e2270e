"""Remaining work of a run, and its time, memory and disk: formulas times a pace.

The pace is measured on the machine at hand, or that of a GPU that is assumed.

What the estimate cannot know: how many products an eigenvalue takes, the disk's speed
(:data:`geomfast.runs.estimate.DISK`), and who else uses the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from geomfast.runs.estimate import DISK, HASHING, SYNC, Estimate, Part, plan_of
from geomfast.runs.executors.engine import Engine
from geomfast.runs.states import states_written
from geomfast.runs.stopwatch import as_in_a_run
from geomfast.runs.timing import TRAINING, WRITING
from geomfast.sweep.assumed import Assumed
from geomfast.sweep.footprint import (
    disk_bytes,
    eigenvector_bytes,
    group_bytes,
    memory_bytes,
    searches,
    state_bytes,
)
from geomfast.sweep.jobs import Job, StackedJob, missing, schedule, untrained, wanted
from geomfast.sweep.modelled import Modelled, parts_of
from geomfast.sweep.pace import Pace, measure_pace
from geomfast.sweep.workload import Workload
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.training.checkpoints import steps_kept, steps_saved

#: Description of the uncertainty of an estimate.
UNCERTAINTY = "time within a factor of 2 or 3, memory and disk within 2"
#: The same of one that rests on assumptions.
MODELLED = "modelled, nothing measured on this device"


@dataclass(frozen=True)
class Left:
    """The remaining work of a run.

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


def left(job: Job, states: Path | None = None) -> Left:
    """The remaining work of a run.

    Args:
        job: the run.
        states: folder of the checkpoints it is resumed from, its own without.

    Raises:
        PlanError: a file among the run's records is not one of its parts.
    """
    measures = missing(job)
    at_once = set(untrained(measures, steps_kept(job.checkpoints)))
    trained = [step for step in measures if step not in at_once]
    saved = steps_saved(states or job.checkpoints)
    if not trained:
        return Left(measures, 0, 0, len(saved))
    start = max([step for step in saved if step <= min(trained)], default=0)
    last = max(trained)
    saves = sum(start < step <= last for step in schedule(job.settings))
    return Left(measures, last - start, saves, len(saved))


def left_together(group: StackedJob) -> list[Left]:
    """Remaining work of every member of a group; all are trained as far as any of them needs."""
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
        run=job.spec.run,
        checkpoints=len(todo.measures),
        of=len(every),
        steps=todo.steps,
        seconds=seconds,
        memory=memory_bytes(job, todo.measures.values()),
        disk=disk_bytes(job, every.values(), todo.states + states),
        parts=parts,
    )


def together(group: StackedJob, found: Sequence[Estimate]) -> Estimate:
    """Remaining work of a group: the sum of its members, except memory, which programs share.

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


def row_of(work: Job | StackedJob, pace: Callable[[], Pace | Assumed]) -> dict[str, Any]:
    """Remaining work of a run or group, as a line of a plan.

    Args:
        work: which.
        pace: called where something is left; see :func:`estimate`.

    Raises:
        PlanError: a file among the run's records is not one of its parts.
    """
    members = work.members
    todo = [left(work)] if isinstance(work, Job) else left_together(work)
    pairs = zip(members, todo, strict=True)
    found = [estimate(job, part, pace()) for job, part in pairs if part.measures]
    if not found:
        whole = Estimate(work.name, 0, len(wanted(members[0])))
    else:
        whole = found[0] if isinstance(work, Job) else together(work, found)
    return whole.row(members[0].spec.scale, [job.spec.seed for job in members])


def planned(
    out: Path, work: Sequence[Job | StackedJob], engine: Engine, assumed: Assumed | None
) -> dict[str, Any]:
    """The plan as plain values; times a fraction of a second's work for each scale with work left.

    Args:
        out: the sweep's folder, which need not exist; nothing is written.
        work: all of it.
        engine: where it would be done.
        assumed: the GPU whose times are modelled instead of this machine's measured.
    """
    paces: dict[str, Pace] = {}

    def pace_of(job: Job) -> Pace | Assumed:
        scale = job.spec.scale
        if assumed is None and scale not in paces:
            with as_in_a_run(engine.threads):
                levels = job.spec.task_levels
                paces[scale] = measure_pace(SCALES[scale], job.settings, levels, engine.device)
        return assumed or paces[scale]

    rows = [row_of(each, partial(pace_of, each.members[0])) for each in work]
    more: dict[str, Any] = {"remarks": []}
    if any(isinstance(each, StackedJob) for each in work):
        more["remarks"] = ["Seeds trained as one program take less than this, which is one by one."]
    if assumed:
        figures = {name: asdict(figure) for name, figure in assumed.figures().items()}
        more["assumed"] = {"name": assumed.name, "title": assumed.title, "figures": figures}
    return plan_of(
        out,
        rows,
        engine,
        MODELLED if assumed else UNCERTAINTY,
        modelled=assumed is not None,
        pace={scale: asdict(pace) for scale, pace in paces.items()},
        **more,
    )
