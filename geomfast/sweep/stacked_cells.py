"""Runs of a sweep that differ only in their seeds, trained as one program and measured each."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from geomfast.runs.cadence import Cadence
from geomfast.runs.executors.events import EXPLAINED, Event, Progress
from geomfast.runs.failures import clear_failure, failed_before, mark_failed
from geomfast.runs.locks import locked
from geomfast.runs.parts import refuse_gone
from geomfast.runs.stacked_loop import go_on, resume
from geomfast.runs.states import STATE_EVERY
from geomfast.sweep.cell import Job, missing, record, schedule
from geomfast.sweep.plan import KEEP, Cell, Settings, run_identity, train_settings
from geomfast.sweep.rows import Probe, probes
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.training import checkpoints
from geomfast.testbed.training.mixture_batches import MixtureBatches
from geomfast.testbed.training.settings import peak_rate
from geomfast.testbed.training.stacked import StackedTrainer
from geomfast.testbed.training.stacking import at_once


@dataclass(frozen=True)
class StackedJob:
    """A group of cells with what it needs to run in a process of its own.

    Attributes:
        name: of the group.
        cells: its members, alike but for their seeds.
        at_once: how many of them are one program.
        settings, measures, out, device, threads, keep, cadence, state_every: as of :class:`Job`.
    """

    name: str
    cells: tuple[Cell, ...]
    at_once: int
    settings: Settings
    measures: tuple[str, ...]
    out: Path
    device: str
    threads: int
    keep: str = KEEP[0]
    cadence: Cadence = field(default_factory=dict)
    state_every: float = STATE_EVERY

    @property
    def members(self) -> tuple[Job, ...]:
        """Each run as a job of its own, which knows where its records are and what they lack."""
        shared = {f.name: getattr(self, f.name) for f in fields(Job) if f.name != "cell"}
        return tuple(Job(cell, **shared) for cell in self.cells)

    @property
    def cost(self) -> float:
        """As of :class:`Job`, of all members."""
        return sum(job.cost for job in self.members)

    @property
    def checkpoints(self) -> Path:
        """Folder of the states that training is resumed from; members' own have weights only."""
        return self.out / "checkpoints" / self.name

    def carry_out(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        """Train and measure it; see :func:`run`."""
        return run(self, progress, stop)


def members_of(job: Job | StackedJob) -> tuple[Job, ...]:
    """The runs that a piece of a sweep's work consists of."""
    return (job,) if isinstance(job, Job) else job.members


def work_of(jobs: Iterable[Job], groups: Iterable[Mapping[str, Any]]) -> list[Job | StackedJob]:
    """The pieces of a sweep's work: groups where runs are in one, and the others by themselves.

    Args:
        jobs: runs, those in the same group all there.
        groups: as ``settings.json`` has them.
    """
    alone = {job.cell.run: job for job in jobs}
    found: list[Job | StackedJob] = []
    for group in groups:
        inside = [alone.pop(run) for run in group["runs"] if run in alone]
        if inside:
            shared = {f.name: getattr(inside[0], f.name) for f in fields(Job) if f.name != "cell"}
            cells = tuple(job.cell for job in inside)
            found.append(StackedJob(group["name"], cells, group["at_once"], **shared))
    return [*found, *alone.values()]


def together(job: Job, members: int, stack: str) -> int:
    """How many of so many runs like this one are one program.

    Args:
        job: one of them.
        members: how many there are.
        stack: see :func:`geomfast.testbed.training.stacking.at_once`.
    """
    if job.settings.precision != "fp32":
        return 1
    tokens = MixtureBatches(job.cell.task_levels, job.settings.batch_size).processed
    return at_once(members, job.cell.model, tokens, job.device, stack)


def news_of_members(job: Job | StackedJob, event: Event) -> list[Event]:
    """The last event of a piece of work as that of each of its runs.

    A member of a group that failed while the others went on has its failure in OUT/failures; of the
    wall time each has an equal share.
    """
    if isinstance(job, Job):
        return [event]
    failed = failed_before(job.out) if event.kind == "finished" else {}
    seconds = {
        name: value / len(job.cells)
        for name, value in event.state.items()
        if name.endswith("_seconds")
    }
    own = [replace(event, run=cell.run, state=seconds) for cell in job.cells]
    return [
        replace(one, kind="failed", error=failed[one.run], explained=True)
        if one.run in failed
        else one
        for one in own
    ]


def run(job: StackedJob, progress: Progress, stop: Callable[[], bool]) -> bool:
    """Train and measure a group of cells from wherever it was left.

    A member whose loss or gradient is not finite stays at its last finite state, has no records
    from there on, and its failure is written down in OUT/failures; so is that of a member that
    cannot be measured.

    Args:
        job: the group.
        progress, stop: see :func:`geomfast.runs.stacked_loop.go_on`.

    Returns:
        Whether the group is finished.

    Raises:
        CellError, CheckpointError, OSError: it cannot go on; what was written before stays.
    """
    with locked(job.checkpoints, f"group {job.name}"):
        for folder in (job.checkpoints, *(member.checkpoints for member in job.members)):
            checkpoints.sweep_up(folder)
        for member in job.members:
            clear_failure(job.out, member.cell.run)
            for remains in member.records.glob(".tmp-*"):
                remains.unlink(missing_ok=True)
        torch.set_num_threads(job.threads)
        return _Run(job).go_on(progress, stop)


class _Run:
    """One attempt at a group."""

    def __init__(self, job: StackedJob) -> None:
        self.job, self.settings = job, job.settings
        self.scale = job.cells[0].model
        self.samples: list[Probe] = probes(job.cells[0], job.settings, torch.device(job.device))
        self.model = GPT(self.scale).to(job.device).eval()
        #: Steps at which each run lacks measures, and which.
        self.lacking = {member.cell.run: missing(member) for member in job.members}
        #: Steps at which each has been measured by this attempt.
        self.taken: dict[str, set[int]] = {cell.run: set() for cell in job.cells}

    def go_on(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        job = self.job
        self._forgo(self._failed_before())
        self._measure_kept()
        if self._done():
            return True
        steps = sorted({step for lacking in self.lacking.values() for step in lacking})
        levels = job.cells[0].task_levels
        trainer = StackedTrainer(
            self.scale,
            [cell.seed for cell in job.cells],
            train_settings(self.settings),
            MixtureBatches(levels, self.settings.batch_size, job.device),
            job.at_once,
            job.device,
        )
        resume(trainer, job.checkpoints, _identity(job), steps[0])

        def measure(failed: dict[int, int]) -> None:
            self._forgo(failed)
            self._measure(trainer, failed)

        def ended() -> bool:
            return stop() or self._done()  # before the last step when no member has got there

        walls = [member.records for member in job.members]
        wanted = [step for step in schedule(self.settings) if step <= steps[-1]]
        identity, every = _identity(job), job.state_every
        go_on(trainer, job.checkpoints, identity, walls, wanted, measure, progress, ended, every)
        if not self._done():
            return False
        for member in job.members:
            refuse_gone(member.records, self.taken[member.cell.run] & missing(member).keys())
        return True

    def _done(self) -> bool:
        return not any(self.lacking.values())

    def _failed_before(self) -> dict[int, int]:
        """Seed -> step of members that had failed by the last state saved."""
        saved = checkpoints.steps_saved(self.job.checkpoints)
        if not saved:
            return {}
        folder = self.job.checkpoints / checkpoints.folder_name(saved[-1])
        meta = checkpoints.read_meta_of(folder, _identity(self.job))
        checkpoints.require(meta, folder, "failed")
        return dict(meta["failed"])

    def _forgo(self, failed: dict[int, int]) -> None:
        """Expect nothing of members from where they failed, and write down that they did."""
        rate = peak_rate(train_settings(self.settings), self.scale.name)
        for cell in self.job.cells:
            if (step := failed.get(cell.seed)) is not None:
                lacking = self.lacking[cell.run]
                self.lacking[cell.run] = {at: names for at, names in lacking.items() if at <= step}
                why = f"loss or gradient not finite at step {step} (learning rate {rate:g}): "
                mark_failed(self.job.out, cell.run, step, f"{why}lower the learning rate", "")

    def _measure_kept(self) -> None:
        """Take what is lacking of weights that were kept, without training."""
        for member in self.job.members:
            for step in checkpoints.steps_kept(member.checkpoints):
                if step in self.lacking[member.cell.run]:
                    folder = member.checkpoints / checkpoints.folder_name(step)
                    meta = checkpoints.read_meta_of(folder, _identity(self.job, member))
                    checkpoints.require(meta, folder, "tokens")
                    self.model.load_state_dict(checkpoints.read_weights(folder))
                    self._record(member, step, meta["tokens"])

    def _measure(self, trainer: StackedTrainer, failed: dict[int, int]) -> None:
        """Take what is lacking at a checkpoint, one member after the other."""
        step = trainer.step
        keeps = step > 0 and (self.job.keep == "all" or step == self.settings.steps)
        states = chain.from_iterable(program.model.states() for program in trainer.programs)
        for member, state in zip(self.job.members, states, strict=True):
            if failed.get(member.cell.seed, step) < step:
                continue
            # Kept by an attempt that was killed before the group's next state.
            kept = step in checkpoints.steps_kept(member.checkpoints)
            lacks = step in self.lacking[member.cell.run]
            if not lacks and (kept or not keeps):
                continue
            self.model.load_state_dict(state)
            if keeps and not kept:
                # Before the records: whatever has them all has the last weights too.
                begin = time.perf_counter()
                self._keep(member, step, trainer.tokens)
                trainer.seconds["write"] += time.perf_counter() - begin
            if lacks:
                for what, seconds in self._record(member, step, trainer.tokens).items():
                    trainer.seconds[what] += seconds

    def _keep(self, member: Job, step: int, tokens: int) -> None:
        folder = member.checkpoints / checkpoints.folder_name(step)
        identity, meta = _identity(self.job, member), {"step": step, "tokens": tokens}
        checkpoints.write(folder, self.model.state_dict(), None, identity, meta)

    def _record(self, member: Job, step: int, tokens: int) -> dict[str, float]:
        """Measure a member; what goes wrong with one leaves the others as they are."""
        lacking = self.lacking[member.cell.run]
        try:
            took = record(member, self.model, step, tokens, self.samples, lacking[step])
            del lacking[step]
            self.taken[member.cell.run].add(step)
            return took
        except OSError:
            raise  # the disk is everyone's
        except Exception as error:
            details = "" if isinstance(error, EXPLAINED) else traceback.format_exc()
            why = f"{type(error).__name__}: {error}"
            mark_failed(self.job.out, member.cell.run, step, why, details)
            lacking.clear()
            return {}


def _identity(job: StackedJob, member: Job | None = None) -> dict[str, Any]:
    """What a state, or a member's weights, must agree on; see :mod:`geomfast.sweep.cell`."""
    told = run_identity(job.settings, job.cells[0])
    own = {"seed": member.cell.seed, "run": member.cell.run} if member else {}
    return {
        **{key: value for key, value in told.items() if key not in ("seed", "run")},
        **own,
        "group": job.name,
        "seeds": [cell.seed for cell in job.cells],
        "at_once": job.at_once,
        "device": torch.device(job.device).type,
        "threads": job.threads,
    }
