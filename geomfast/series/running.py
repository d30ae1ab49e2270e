"""Measures the checkpoints of a series, one after the other."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomfast.estimators.stopping import Stopped
from geomfast.files import write_atomically
from geomfast.lm.hub import LoadError
from geomfast.lm.probe_sets import ProbesError
from geomfast.measures.activity import announce
from geomfast.records import parts_of, write_part
from geomfast.runs.cadence import Cadence, lacking, wanted
from geomfast.runs.errors import RunError
from geomfast.runs.executors.events import USER_ERRORS, Progress
from geomfast.runs.failures import clear_failure, mark_failed
from geomfast.runs.job import Job
from geomfast.runs.model_folder import remember
from geomfast.runs.recorded import of_other_weights, recorded, refuse_gone
from geomfast.series.checkpoint import Checkpoint, Opened, Series, SourceUnreachable
from geomfast.series.prefetch import prefetched

Row = dict[str, Any]
#: Failures whose message says what happened.
_USER_ERRORS = (*USER_ERRORS, LoadError, ProbesError, ValueError)


class SomeFailed(RunError):
    """Some checkpoints of a series could not be measured; all others are."""


@dataclass(frozen=True)
class MeasureJob(Job):
    """Checkpoints of a series with what it takes to measure them in a process of its own.

    A checkpoint that cannot be measured is written down in OUT/failures, and the next one taken;
    in the end SomeFailed has a line for each. Where no more checkpoints come, SourceUnreachable
    says how many are measured. When told to stop, the measure in hand is dropped, and all else that
    the checkpoint has is written.

    Attributes:
        series: that they are of.
        steps: theirs.
        measures: to take; behaviour is always taken.
        out, device, threads: see :class:`geomfast.runs.job.Job`.
        cadence: at how many of the series' checkpoints each measure is taken; at all where it is
            not named.
        share: number of the job among those of the series, from 1, and how many they are.
    """

    series: Series
    steps: tuple[int, ...]
    measures: tuple[str, ...]
    out: Path
    device: str
    threads: int
    cadence: Cadence = field(default_factory=dict)
    share: tuple[int, int] = (1, 1)

    @property
    def name(self) -> str:
        """Name of the run, and which share of it where there are several."""
        number, count = self.share
        return self.series.run if count == 1 else f"{self.series.run}-{number}of{count}"

    @property
    def lacking(self) -> dict[int, set[str]]:
        """Measures not yet recorded, by checkpoint step."""
        return missing(self.series, self.measures, self.out, self.cadence, self.steps)

    @property
    def cost(self) -> float:
        """Checkpoints of one model cost about the same."""
        return float(len(self.steps))

    @property
    def records(self) -> Path:
        """Folder of the run's record parts."""
        return self.out / "records" / self.series.run

    def _work(self, progress: Progress, stop: Callable[[], bool]) -> bool:
        names = self.lacking
        todo = [c for c in self.series.checkpoints if c.step in names]
        done = _Done()
        left = _measure_all(self, todo, names, done, progress, stop)
        refuse_gone(self.records, done.steps & self.lacking.keys())
        if done.failed:
            kept = f"{done.measured} of {len(todo)} checkpoints are measured; "
            raise SomeFailed(kept + "not so:\n" + "\n".join(f"  {line}" for line in done.failed))
        return not left


@dataclass
class _Done:
    """Results of a job's checkpoints so far."""

    measured: int = 0
    steps: set[int] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("wait", "measure"), 0))

    def state(self) -> dict[str, float]:
        counts = {"measured": float(self.measured), "failed": float(len(self.failed))}
        return counts | {f"{what}_seconds": value for what, value in self.seconds.items()}


def missing(
    series: Series,
    measures: tuple[str, ...],
    out: Path,
    cadence: Cadence | None = None,
    steps: tuple[int, ...] | None = None,
) -> dict[int, set[str]]:
    """Measures not yet recorded, by checkpoint step; steps with nothing missing are left out.

    Args:
        series: the checkpoints.
        measures: asked for, beside behaviour.
        out: folder of the results.
        cadence: at how many of the checkpoints each is taken; at all where it is not named.
        steps: of the checkpoints to look at; all when None.

    Raises:
        PlanError: a file among the records is not one of their parts.
    """
    asked = wanted([c.step for c in series.checkpoints], measures, cadence or {})
    if steps is not None:
        asked = {step: asked[step] for step in steps}
    return lacking(asked, recorded(out / "records" / series.run))


def _measure_all(
    job: MeasureJob,
    todo: list[Checkpoint],
    lacking: dict[int, set[str]],
    done: _Done,
    progress: Progress,
    stop: Callable[[], bool],
) -> bool:
    """Measure them; whether something is left."""
    if not todo:
        return False
    progress(todo[0].step, done.state())
    began = time.perf_counter()
    announce("fetching")
    ended = 0
    for checkpoint, folder in prefetched(job.series, todo, stop):
        done.seconds["wait"] += time.perf_counter() - began
        began = time.perf_counter()
        try:
            finished = _measure(job, checkpoint, folder(), lacking[checkpoint.step], stop)
        except SourceUnreachable as error:
            raise SourceUnreachable(
                f"{error}\nWhat is measured is kept ({done.measured} checkpoints now, "
                f"{len(todo) - done.measured} left); run the same command again to resume"
            ) from error
        except Exception as error:
            _fail(job, checkpoint, error, done)
            finished = True
        else:
            done.measured += finished
            if finished:
                done.steps.add(checkpoint.step)
                clear_failure(job.out, checkpoint_name(job.series.run, checkpoint.step))
        if finished:
            job.series.release(checkpoint)  # one half done is resumed
        ended += finished
        done.seconds["measure"] += time.perf_counter() - began
        progress(checkpoint.step, done.state())
        announce("fetching")
        if not finished or stop():
            break
        began = time.perf_counter()
    return ended < len(todo)


def _measure(
    job: MeasureJob, checkpoint: Checkpoint, folder: Path, names: set[str], stop: Callable[[], bool]
) -> bool:
    """Take what is missing of a checkpoint and write it; whether that is all of it."""
    announce("loading", checkpoint.step)
    opened = job.series.open(checkpoint, folder, job.device)
    if other := of_other_weights(job.records, checkpoint.step, opened.weights):
        raise RunError(f"{checkpoint.name} has other weights than those measured in {other}")
    rows: list[Row] = []
    taken: set[str] = set()
    try:
        for group in job.series.groups(names):
            if taken and stop():
                break
            rows += opened.take(group)
            taken |= group
    except Stopped:  # the one in hand is dropped
        pass
    finally:  # a measure that fails takes nothing away from those before it
        if taken:
            # Of one model alone nothing hangs on its size.
            sizes = {job.series.scale: opened.parameters} if opened.parameters else None
            remember(job.out, opened.described, sizes)
            _write(job, checkpoint, opened, rows, taken)
    return taken == names


def _write(
    job: MeasureJob, checkpoint: Checkpoint, opened: Opened, rows: list[Row], names: set[str]
) -> None:
    shared = {
        "run": job.series.run,
        "scale": job.series.scale,
        "seed": job.series.seed,
        "step": checkpoint.step,
        "tokens": opened.tokens,
        "weights": opened.weights,
    }
    if opened.notices:
        path = job.out / "notices" / f"{checkpoint_name(job.series.run, checkpoint.step)}.txt"
        before = path.read_text().splitlines() if path.exists() else []
        lines = dict.fromkeys((*before, *opened.notices))
        write_atomically(path, ("\n".join(lines) + "\n").encode())
    complete = [{**shared, **row} for row in rows]
    for path, part in parts_of(job.records, checkpoint.step, names, complete):
        write_part(path, part)


def _fail(job: MeasureJob, checkpoint: Checkpoint, error: Exception, done: _Done) -> None:
    said = str(error).strip() or type(error).__name__
    if not isinstance(error, _USER_ERRORS):
        said = f"{type(error).__name__}: {said}"
    details = traceback.format_exc()
    mark_failed(
        job.out, checkpoint_name(job.series.run, checkpoint.step), checkpoint.step, said, details
    )
    done.failed.append(f"{checkpoint.name}: {said.splitlines()[0]}")


def checkpoint_name(run: str, step: int) -> str:
    """Name of a checkpoint's notices and failure."""
    return f"{run}-step{step}"
