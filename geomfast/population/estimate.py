"""Remaining work of a population, and its time, memory and disk.

Seconds are those that the groups of a scale took so far on such a device, with the threads they
had; where there are none, a few steps and one checkpoint of some members are timed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from geomfast.measures.catalog import part_of
from geomfast.population.job import missing
from geomfast.population.measuring import measure, probes_of
from geomfast.population.plan import scale_of, schedule, train_settings
from geomfast.population.running import GroupJob, batches_of
from geomfast.records import load_records, parse_part_name, part_files
from geomfast.replay import WARM_UP
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
from geomfast.runs.timing import TRAINING, WRITING, read_seconds
from geomfast.testbed.models.stacked import StackedGPT
from geomfast.testbed.training.checkpoints import steps_saved
from geomfast.testbed.training.stacked import StackedTrainer
from geomfast.testbed.training.stacking import member_bytes

#: Description of the uncertainty of an estimate.
UNCERTAINTY = "time within a factor of 2 or 3, memory and disk within 2"
#: Members that a checkpoint is timed with, at most.
_TIMED = 8
#: Bytes of a record in its file: more than of other runs', for every member has weights to name.
_RECORD = 25
#: Bytes that a forward pass over samples makes, of all members; see population/measuring.py.
_PASS = 256 << 20


@dataclass(frozen=True)
class Pace:
    """Seconds that one member of a scale takes, on average over those that go together.

    Attributes:
        step: of training.
        measures: by name, at a checkpoint.
        timed: whether they are of this machine now, not of records.
    """

    step: float
    measures: dict[str, float]
    timed: bool


def recorded_pace(groups: Iterable[GroupJob]) -> Pace | None:
    """Pace of these groups of one scale from their records; None without any.

    Raises:
        RecordsError, DamagedFile: records, or the note of their time, are damaged.
    """
    trained = steps = 0.0
    taken: dict[str, float] = {}
    times: dict[str, int] = {}
    for job in groups:
        parts = list(part_files(job.records)) if job.records.is_dir() else []
        if not parts:
            continue
        frame = load_records(job.records)
        kinds = frame["device"].str.partition(":")[0]
        if set(kinds) != {job.device.partition(":")[0]}:
            continue
        # The time noted is that of one pass until the checkpoint written last.
        named = parse_part_name(max(parts, key=lambda part: part.stat().st_mtime_ns).name)
        trained += read_seconds(job.records)[TRAINING]
        steps += named[0] * len(job.group.seeds) if named else 0
        for name, rows in frame.groupby(frame["measure"].map(part_of)):
            taken[str(name)] = taken.get(str(name), 0.0) + float(rows["seconds"].sum())
            times[str(name)] = times.get(str(name), 0) + rows.groupby(["run", "step"]).ngroups
    if not steps or not trained:
        return None
    return Pace(trained / steps, {name: taken[name] / times[name] for name in taken}, timed=False)


def timed_pace(job: GroupJob) -> Pace:
    """Pace of a program of the group, timed on its device with the current threads."""
    scale, on = scale_of(job.settings, job.group.scale), torch.device(job.device)
    # The rates of the steps that are timed exist, however few the population takes.
    settings = replace(job.settings, steps=max(job.settings.steps, WARM_UP + 8))
    seeds = job.group.seeds[: job.group.members_per_program]
    batches = batches_of(settings, job.device)
    trainer = StackedTrainer(
        scale, seeds, train_settings(settings), batches, len(seeds), job.device
    )
    if on.type == "cuda":  # from then on a step is replayed
        trainer.advance(WARM_UP + 1)

    def step() -> None:
        trainer.advance(trainer.step + 1)

    each = seconds_of(step, on) / len(seeds)
    some = seeds[:_TIMED]
    model, probes = StackedGPT(scale, some, on), probes_of(settings, on)
    measure(model, some, probes, settings, {})  # the first is not counted
    taken = dict.fromkeys(settings.taken, 0.0)
    for row in measure(model, some, probes, settings, {}):
        taken[part_of(row["measure"])] += row["seconds"] / len(some)
    return Pace(each, taken, timed=True)


def pace_of(job: GroupJob, alike: Sequence[GroupJob]) -> Pace:
    """Pace of a group's scale: from records, and timed here where records have none.

    Args:
        job: the group.
        alike: all groups of its scale.
    """
    found = recorded_pace([job]) or recorded_pace(alike)
    names = set().union(*missing(job).values())
    if found is not None and names <= found.measures.keys():
        return found
    timed = timed_pace(job)
    if found is None:
        return timed
    return Pace(found.step, timed.measures | found.measures, timed=True)


def memory_bytes(job: GroupJob) -> int:
    """Peak bytes of the device for a group."""
    group, settings = job.group, job.settings
    scale = scale_of(settings, group.scale)
    together = min(group.members_per_program, len(group.seeds))
    held = 16 * scale.parameters  # weights, gradient and both moments of AdamW
    tokens = batches_of(settings, "cpu").processed
    training = together * (member_bytes(scale, tokens) - held)
    # Activations of every length as they are and in float64.
    states = 12 * together * (scale.layers + 1) * settings.samples * scale.d_model
    return PROCESS_BYTES + len(group.seeds) * held + max(training, states + _PASS)


def footprint(job: GroupJob) -> int:
    """Bytes of a GPU that a group takes until it is done; 0 if it is done."""
    return memory_bytes(job) if missing(job) else 0


def estimate(job: GroupJob, lacking: Mapping[int, set[str]], pace: Pace) -> Estimate:
    """Time, memory and disk that a group still takes.

    Args:
        job: the group.
        lacking: what is not recorded, by step; some.
        pace: of its scale.
    """
    settings, members, at = job.settings, len(job.group.seeds), schedule(job.settings)
    scale = scale_of(settings, job.group.scale)
    saved = [step for step in steps_saved(job.checkpoints) if step <= min(lacking)]
    start, last = max(saved, default=0), max(lacking)
    seconds = {TRAINING: (last - start) * members * pace.step}
    for name in (name for names in lacking.values() for name in names):
        seconds[name] = seconds.get(name, 0.0) + members * pace.measures[name]
    state = 12 * scale.parameters * members
    saves = sum(start < step <= last for step in at)
    states = states_written(saves, sum(seconds.values()), job.state_every)
    hashed = len(lacking) * state / 3
    seconds[WRITING] = states * state / DISK + hashed / HASHING
    seconds[WRITING] += SYNC * (4 * states + 2 * len(lacking))
    values = 2 + len(settings.measures) * (scale.layers + 1)
    records = len(at) * (PART_BYTES + _RECORD * members * settings.outcomes * values)
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


def planned(out: Path, jobs: Sequence[GroupJob], engine: Engine) -> dict[str, Any]:
    """The plan as plain values; nothing is written.

    Args:
        out: the population's folder, which need not exist.
        jobs: all groups asked for.
        engine: where they would be trained.

    Raises:
        PlanError: a file among the records is not one of their parts.
    """
    rows: list[dict[str, Any]] = []
    paces: dict[str, Pace] = {}
    with as_in_a_run(engine.threads):
        for job in jobs:
            lacking, scale = missing(job), job.group.scale
            found = Estimate(job.name, 0, len(schedule(job.settings)))
            if lacking:
                if scale not in paces:
                    paces[scale] = pace_of(job, [j for j in jobs if j.group.scale == scale])
                found = estimate(job, lacking, paces[scale])
            rows.append(found.row(scale, job.group.seeds))
    timed = [scale for scale, pace in paces.items() if pace.timed]
    taken = [scale for scale in paces if scale not in timed]
    remarks = [
        f"Time of {', '.join(scales)}: {how}."
        for scales, how in (
            (taken, "as groups of the scale took so far, with the threads they had"),
            (timed, "for want of records, a few steps and a checkpoint timed here"),
        )
        if scales
    ]
    paced = {scale: asdict(pace) for scale, pace in paces.items()}
    return plan_of(out, rows, engine, UNCERTAINTY, pace=paced, remarks=remarks)
