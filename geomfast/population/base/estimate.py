"""Remaining work of a population from bases, and its time, memory and disk.

Seconds are those that the groups of a base took so far on such a device; where there are none, a
few steps and one checkpoint of some members are timed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from geomfast.measures.catalog import part_of
from geomfast.population.base.job import BaseGroupJob
from geomfast.population.base.measuring import measure
from geomfast.population.base.memory import held_bytes, shared_bytes, step_bytes
from geomfast.population.base.plan import schedule
from geomfast.population.base.prepared import Prepared
from geomfast.population.base.trainer import BaseTrainer
from geomfast.population.estimate import UNCERTAINTY, Pace, recorded_pace
from geomfast.population.job import missing
from geomfast.runs.estimate import (
    DISK,
    HASHING,
    PART_BYTES,
    PROCESS_BYTES,
    SYNC,
    Estimate,
    plan_of,
)
from geomfast.runs.executors.engine import Engine
from geomfast.runs.states import KEPT_STATES, states_written
from geomfast.runs.stopwatch import as_in_a_run, seconds_of
from geomfast.runs.timing import TRAINING, WRITING
from geomfast.testbed.training.checkpoints import steps_saved

#: Bytes of a record in its file.
_RECORD = 25
#: Bytes that a pass over test rows makes of all members; see :mod:`.measuring`.
_PASS = 256 << 20


def memory_bytes(job: BaseGroupJob) -> int:
    """Peak bytes of the device for a group."""
    base, settings = job.base, job.settings
    members = len(job.group.seeds)
    together = min(job.group.members_per_program, members)
    step = max(together * step_bytes(base, settings), _PASS)
    return PROCESS_BYTES + shared_bytes(base) + members * held_bytes(base) + step


def footprint(job: BaseGroupJob) -> int:
    """Bytes of a GPU that a group takes until it is done; 0 if it is done."""
    return memory_bytes(job) if missing(job) else 0


def timed_pace(job: BaseGroupJob, prepared: Prepared) -> Pace:
    """Pace of a program of the group, timed on its device with the current threads.

    Args:
        job: the group.
        prepared: its base, loaded on that device.
    """
    seeds = job.group.seeds[: job.group.members_per_program]
    trainer = BaseTrainer(prepared, seeds, len(seeds))

    def step() -> None:
        trainer.advance(min(trainer.step + 1, trainer.steps))

    # As many steps as there are may be fewer than are timed.
    each = seconds_of(step, trainer.device) if trainer.steps > 3 else 0.0
    (program,) = trainer.programs
    measure(program, {}, job.settings.taken)  # the first is not counted
    taken = dict.fromkeys(job.settings.taken, 0.0)
    for row in measure(program, {}, job.settings.taken):
        taken[part_of(row["measure"])] += row["seconds"] / len(seeds)
    return Pace(each / len(seeds), taken, timed=True)


def pace_of(job: BaseGroupJob, alike: Sequence[BaseGroupJob], prepared: Prepared) -> Pace:
    """Pace of a group's base: from records, and timed here where records have none."""
    # What it asks of a group, one of a base has as well.
    found = recorded_pace(cast(Any, [job])) or recorded_pace(cast(Any, alike))
    names = set().union(*missing(job).values())
    if found is not None and names <= found.measures.keys():
        return found
    timed = timed_pace(job, prepared)
    if found is None:
        return timed
    return Pace(found.step, timed.measures | found.measures, timed=True)


def estimate(job: BaseGroupJob, lacking: Mapping[int, set[str]], pace: Pace) -> Estimate:
    """Time, memory and disk that a group still takes.

    Args:
        job: the group.
        lacking: what is not recorded, by step; some.
        pace: of its base.
    """
    settings, members, at = job.settings, len(job.group.seeds), schedule(job.settings)
    saved = [step for step in steps_saved(job.checkpoints) if step <= min(lacking)]
    start, last = max(saved, default=0), max(lacking)
    seconds = {TRAINING: (last - start) * members * pace.step}
    for name in (name for names in lacking.values() for name in names):
        seconds[name] = seconds.get(name, 0.0) + members * pace.measures[name]
    state = 12 * job.base.trained * members
    saves = sum(start < step <= last for step in at)
    states = states_written(saves, sum(seconds.values()), job.state_every)
    seconds[WRITING] = states * state / DISK + len(lacking) * state / 3 / HASHING
    seconds[WRITING] += SYNC * (4 * states + 2 * len(lacking))
    values = 3 + 2 * len(settings.measures)
    records = len(at) * (PART_BYTES + _RECORD * members * values)
    # One more than are kept stands there while it is written.
    kept = min(KEPT_STATES + 1, len(saved) + states) * state
    return Estimate(
        run=job.name,
        checkpoints=len(lacking),
        of=len(at),
        steps=last - start,
        seconds=seconds,
        memory=memory_bytes(job),
        disk=kept + records,
    )


def planned(
    out: Path,
    jobs: Sequence[BaseGroupJob],
    prepared: Mapping[str, Prepared],
    engine: Engine,
    remarks: Sequence[str],
) -> dict[str, Any]:
    """The plan as plain values; nothing is written.

    Args:
        out: the population's folder, which need not exist.
        jobs: all groups asked for.
        prepared: bases by name, on the engine's device.
        engine: where they would be trained.
        remarks: on bases and examples, for a reader.
    """
    rows: list[dict[str, Any]] = []
    paces: dict[str, Pace] = {}
    with as_in_a_run(engine.threads):
        for job in jobs:
            lacking, scale = missing(job), job.base.name
            found = Estimate(job.name, 0, len(schedule(job.settings)))
            if lacking:
                if scale not in paces:
                    alike = [other for other in jobs if other.base.name == scale]
                    paces[scale] = pace_of(job, alike, prepared[scale])
                found = estimate(job, lacking, paces[scale])
            rows.append(found.row(scale, job.group.seeds))
    told = [
        f"Time of {scale}: "
        + (
            "for want of records, a few steps and a checkpoint timed here."
            if pace.timed
            else "as groups of the base took so far, with the threads they had."
        )
        for scale, pace in paces.items()
    ]
    paced = {scale: asdict(pace) for scale, pace in paces.items()}
    told = [*remarks, *told]
    return plan_of(out, rows, engine, UNCERTAINTY, pace=paced, remarks=told)
