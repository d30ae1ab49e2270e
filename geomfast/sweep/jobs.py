"""The pieces of a sweep's work: runs by themselves, and groups of runs trained as one program."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from geomfast.measures.catalog import spec_of
from geomfast.measures.spec import BEHAVIOUR, Need
from geomfast.runs.cadence import Cadence, measurement_steps
from geomfast.runs.executors.events import Event, Progress
from geomfast.runs.failures import failed_before
from geomfast.runs.job import TrainingJob
from geomfast.runs.recorded import recorded
from geomfast.runs.remaining import Piece
from geomfast.runs.states import STATE_EVERY
from geomfast.sweep.plan import KEEP, RunSpec, Settings, run_identity
from geomfast.testbed.training.mixture_batches import MixtureBatches
from geomfast.testbed.training.schedule import checkpoint_steps
from geomfast.testbed.training.stacking import members_per_program


class SweepJob(TrainingJob):
    """A run or a group of runs.

    Attributes:
        settings: the sweep's.
        measures: names from the catalogue.
        keep: ``last`` keeps what a resume needs, ``all`` the weights of every checkpoint.
        cadence: of how many checkpoints each measure is taken; of all where it is not named.
    """

    settings: Settings
    measures: tuple[str, ...]
    keep: str
    cadence: Cadence

    @property
    @abstractmethod
    def members(self) -> tuple[Job, ...]:
        """Each run as a job of its own, which knows where its records are and what they lack."""

    @property
    def cost(self) -> float:
        """Parameters times steps of all members.

        Batches are the same in every run of a sweep, so training and the measures that go through
        the gradients cost about this many times a constant.
        """
        parameters = sum(job.spec.model.parameters for job in self.members)
        return float(parameters * self.settings.steps)

    def identity_of(self, member: Job) -> dict[str, Any]:
        """Values that the saved weights of a member must match before they are measured."""
        return self.identity | {"seed": member.spec.seed, "run": member.name}

    def _train(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        from geomfast.sweep.running import Attempt  # which is at a job

        return Attempt(self).finished(progress, stop)


@dataclass(frozen=True)
class Job(SweepJob):
    """A run with what it needs to be trained in a process of its own.

    Attributes:
        spec: which run.
        settings, measures, out, device, threads, keep, cadence, state_every: see :class:`SweepJob`.
    """

    spec: RunSpec
    settings: Settings
    measures: tuple[str, ...]
    out: Path
    device: str
    threads: int
    keep: str = KEEP[0]
    cadence: Cadence = field(default_factory=dict)
    state_every: float = STATE_EVERY

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.spec.run

    @property
    def members(self) -> tuple[Job]:
        """The run itself."""
        return (self,)

    @property
    def identity(self) -> dict[str, Any]:
        """Values that a checkpoint must match before training resumes from it."""
        return run_identity(self.settings, self.spec) | self._place


@dataclass(frozen=True)
class StackedJob(SweepJob):
    """A group of runs with what it needs to be trained in a process of its own.

    Attributes:
        group: name of the group.
        specs: its members, alike but for their seeds.
        members_per_program: how many of them are one program.
        settings, measures, out, device, threads, keep, cadence, state_every: see :class:`SweepJob`.
    """

    group: str
    specs: tuple[RunSpec, ...]
    members_per_program: int
    settings: Settings
    measures: tuple[str, ...]
    out: Path
    device: str
    threads: int
    keep: str = KEEP[0]
    cadence: Cadence = field(default_factory=dict)
    state_every: float = STATE_EVERY

    @property
    def name(self) -> str:
        """Name of the group."""
        return self.group

    @property
    def members(self) -> tuple[Job, ...]:
        """Each run as a job of its own."""
        shared = _shared(self)
        return tuple(Job(spec, **shared) for spec in self.specs)

    @property
    def identity(self) -> dict[str, Any]:
        """Values that a state must match before training resumes from it."""
        told = run_identity(self.settings, self.specs[0])
        seeds = [spec.seed for spec in self.specs]
        of_group = {"group": self.group, "seeds": seeds, "at_once": self.members_per_program}
        shared = {key: told[key] for key in told if key not in ("seed", "run")}
        return shared | of_group | self._place


def _shared(job: SweepJob) -> dict[str, Any]:
    """Fields that a run shares with the others of its group."""
    return {f.name: getattr(job, f.name) for f in fields(Job) if f.name != "spec"}


def schedule(settings: Settings) -> list[int]:
    """The steps at which every run of a sweep is measured."""
    return checkpoint_steps(
        settings.steps,
        dense_until=settings.dense_until,
        dense_every=settings.dense_every,
        count=settings.checkpoints,
    )


def wanted(job: Job) -> dict[int, set[str]]:
    """Measures to take at each checkpoint of a run, by step.

    Of the untrained weights there are no chains: these are near no minimum, so that a coefficient
    local to them is none (48 of 50 of nano's were "still training").
    """
    steps = schedule(job.settings)
    named = {step: {BEHAVIOUR} for step in steps}
    for name in job.measures:
        chains = spec_of(name).need is Need.CHAINS
        for step in measurement_steps(steps, job.cadence.get(name)):
            if step > 0 or not chains:
                named[step].add(name)
    return named


def missing(job: Job) -> dict[int, set[str]]:
    """Measures not yet recorded, by checkpoint step; steps with nothing missing are left out.

    Raises:
        PlanError: a file among the run's records is not one of its parts.
    """
    there = recorded(job.records, job.settings.steps)
    lacking = {step: names - there.get(step, set()) for step, names in wanted(job).items()}
    return {step: names for step, names in lacking.items() if names}


def untrained(lacking: Mapping[int, set[str]], kept: Iterable[int]) -> list[int]:
    """Steps at which weights that were kept can be measured without training.

    Not those that are to be compared with earlier ones which training has to come by first.

    Args:
        lacking: measures to take, by step.
        kept: steps whose weights there are.
    """
    there, found = set(kept), []
    to_come: set[str] = set()
    for step, names in sorted(lacking.items()):
        if step not in there:
            to_come |= {name for name in names - {BEHAVIOUR} if spec_of(name).compares}
        elif not names & to_come:
            found.append(step)
    return found


def piece_of(work: Job | StackedJob) -> Piece:
    """The remaining work of a run or group, for an estimate of its time."""
    lacking: dict[int, set[str]] = {}
    for member in work.members:
        for step, names in missing(member).items():
            lacking.setdefault(step, set()).update(names)
    return Piece(work.name, work.members[0].spec.scale, lacking, len(work.members))


def work_of(jobs: Iterable[Job], groups: Iterable[Mapping[str, Any]]) -> list[Job | StackedJob]:
    """The pieces of a sweep's work: groups where runs are in one, and the others by themselves.

    Args:
        jobs: runs, those in the same group all there.
        groups: as ``settings.json`` has them.
    """
    alone = {job.name: job for job in jobs}
    found: list[Job | StackedJob] = []
    for group in groups:
        inside = [alone.pop(run) for run in group["runs"] if run in alone]
        if inside:
            specs = tuple(job.spec for job in inside)
            found.append(StackedJob(group["name"], specs, group["at_once"], **_shared(inside[0])))
    return [*found, *alone.values()]


def runs_per_program(job: Job, members: int, stack: str) -> int:
    """Number of runs trained as one program, out of a number of runs like this one.

    Args:
        job: one of them.
        members: how many there are.
        stack: see :func:`geomfast.testbed.training.stacking.members_per_program`.
    """
    settings, scale = job.settings, job.spec.model
    tokens = MixtureBatches(job.spec.trained, settings.batch_size).processed
    return members_per_program(members, scale, tokens, job.device, stack, settings.precision)


def member_events(job: Job | StackedJob, event: Event) -> list[Event]:
    """The last event of a piece of work as that of each of its runs.

    The failure of a member whose group continued is in OUT/failures; of the
    wall time each has an equal share.
    """
    if isinstance(job, Job):
        return [event]
    failed = failed_before(job.out) if event.kind == "finished" else {}
    count = len(job.specs)
    seconds = {k: took / count for k, took in event.state.items() if k.endswith("_seconds")}
    of_failed = {run: {"kind": "failed", "error": failed[run], "explained": True} for run in failed}
    runs = [spec.run for spec in job.specs]
    return [replace(event, run=run, state=seconds, **of_failed.get(run, {})) for run in runs]
