"""Results of many files as one table of tasks by checkpoint, without duplicates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from geomfast.files import FileError, UnsafeName, plain_name
from geomfast.harness.names import Checkpoint, Naming, Unnamed, owner_of
from geomfast.harness.results import Results, TaskResult, measure_of, read_results
from geomfast.harness.samples import Samples, date_of, read_samples, task_of
from geomfast.harness.sources import Source
from geomfast.runs.errors import PlanError

#: How many of what is wrong a message lists.
LISTED = 10
#: Smallest standard error that tells a number of samples.
LEAST_ERROR = 1e-6
#: How far apart rates of blind guesses of a task may be, of parts of its questions.
LEAST_RATE = 0.05


class Entry(NamedTuple):
    """A task of a checkpoint.

    Attributes:
        result: its scores.
        source: the file they are from.
        samples: of its questions; None where there is no sample file.
    """

    result: TaskResult
    source: str
    samples: Samples | None

    @property
    def rate(self) -> float | None:
        """Rate of blind guesses that its samples, or else its results, tell; None for unknown."""
        return self.result.chance if self.samples is None else self.samples.chance


@dataclass
class Collected:
    """What files tell.

    Attributes:
        checkpoints: tasks by name, by checkpoint.
        left_out: reasons by file.
        tasks_left_out: reasons by task, of at least one file; the first where they differ.
        groups: names of aggregates, which are computed from tasks that are here themselves.
        models: names of the model with its owner on a hub, where there is one, by run.
        files: how many were read.
    """

    checkpoints: dict[Checkpoint, dict[str, Entry]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    tasks_left_out: dict[str, str] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    models: dict[str, set[str]] = field(default_factory=dict)
    files: int = 0

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks, sorted."""
        return sorted({task for tasks in self.checkpoints.values() for task in tasks})

    def of(self, task: str) -> list[Entry]:
        """A task at every checkpoint that has it."""
        return [tasks[task] for tasks in self.checkpoints.values() if task in tasks]


def collect(
    sources: Iterable[Source],
    naming: Naming,
    *,
    shots: int | None = None,
    runs: Collection[str] | None = None,
) -> Collected:
    """Read files, and put the tasks of one checkpoint together.

    Args:
        sources: results files and sample files, and others, which are left out by name.
        naming: how files tell their checkpoint.
        shots: examples in a prompt; tasks with another number are left out. None for any.
        runs: names of those wanted; files of others are left out by name. None for all.

    Raises:
        PlanError: a task of a checkpoint is in several files; a task has several numbers of shots,
            versions or metrics for one record; or a run has two models. The message lists them.
    """
    found, twice = Collected(), []
    samples: dict[tuple[str, str], dict[str, Samples]] = {}
    read: list[tuple[Results, tuple[str, str] | None]] = []
    for source in sources:
        date = date_of(source.name)
        key = (source.root, date) if date else None
        if source.unread:
            found.left_out[source.name] = source.unread
            continue
        try:
            if (task := task_of(source.name)) is not None and key is not None:
                if (told := read_samples(task, source.content)) is not None:
                    samples.setdefault(key, {})[task] = told
            elif source.name.endswith(".jsonl"):
                found.left_out[source.name] = "no file of the harness"
            else:
                read.append((read_results(source.name, source.content), key))
        except FileError as error:
            found.left_out[source.name] = str(error)
    for results, key in read:
        try:
            checkpoint = naming.of(results)
            plain_name(checkpoint.run, "run")
        except (Unnamed, UnsafeName) as error:
            found.left_out[results.name] = str(error)
            continue
        if runs is not None and checkpoint.run not in runs:
            there = ", ".join(sorted(runs)[:3])
            found.left_out[results.name] = f"of {checkpoint.run}, and the folder is of {there}"
            continue
        found.files += 1
        if owner := owner_of(results):
            found.models.setdefault(checkpoint.run, set()).add(f"{owner}/{checkpoint.model}")
        found.groups |= set(results.groups)
        for task, why in results.left_out.items():
            found.tasks_left_out.setdefault(task, why)
        tasks = found.checkpoints.setdefault(checkpoint, {})
        of_file = samples.get(key, {}) if key else {}
        for task, result in results.tasks.items():
            if shots is not None and result.shots != shots:
                told = "an unknown number of" if result.shots is None else result.shots
                found.tasks_left_out.setdefault(task, f"with {told} shots")
                continue
            own = of_file.get(task)
            if own is not None and result.n not in (0, own.n):
                why = f"its sample file has {own.n:,} questions, and its results {result.n:,}"
                found.left_out[f"{results.name}, samples of {task}"], own = why, None
            entry = Entry(result, results.name, own)
            if task in tasks:
                twice.append(_twice(checkpoint, tasks[task], entry))
            else:
                tasks[task] = entry
    found.checkpoints = {c: t for c, t in sorted(found.checkpoints.items()) if t}
    refuse(twice, "duplicate or contradictory results")
    refuse([*_models(found)], "one run, and several models")
    refuse([*_shots(found)], "one task, and several numbers of shots; choose by --shots")
    refuse(
        [*_unlike(found)],
        "one task, and several versions or metrics, which are no one curve; read them into an OUT "
        "of their own",
    )
    return found


def refuse(wrong: Sequence[str], what: str) -> None:
    """Refuse what is wrong, if anything is.

    Raises:
        PlanError: lists the first of it.
    """
    if wrong:
        more = [f"and {len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        lines = "\n  ".join([*wrong[:LISTED], *more])
        raise PlanError(f"{what}:\n  {lines}")


def _twice(checkpoint: Checkpoint, first: Entry, second: Entry) -> str:
    place = f"{checkpoint.run}, step {checkpoint.step}, {first.result.task}"
    values = [
        ", ".join(f"{score.metric} {score.value:.6g}" for score in entry.result.scores)
        for entry in (first, second)
    ]
    same = values[0] == values[1] and first.result.shots == second.result.shots
    told = f"twice {values[0]}" if same else f"{values[0]} and {values[1]}"
    return f"{place}: {told} ({first.source} and {second.source})"


def _models(found: Collected) -> Iterable[str]:
    names: dict[str, set[tuple[str, str, int]]] = {}
    for one in found.checkpoints:
        names.setdefault(one.run, set()).add((one.model, one.scale, one.seed))
    for run, several in names.items():
        if len(several) > 1:
            yield f"{run}: " + " and ".join(
                f"{model} (scale {scale}, seed {seed})" for model, scale, seed in sorted(several)
            )
    for run, owned in found.models.items():
        if len(owned) > 1:
            yield f"{run}: {' and '.join(sorted(owned))}"


def _shots(found: Collected) -> Iterable[str]:
    for task in found.tasks:
        told = (entry.result.shots for entry in found.of(task))
        several = {shots for shots in told if shots is not None}
        if len(several) > 1:
            yield f"{task}: {' and '.join(map(str, sorted(several)))}"


def _unlike(found: Collected) -> Iterable[str]:
    for task in found.tasks:
        entries = found.of(task)
        versions = {entry.result.version for entry in entries} - {""}
        if len(versions) > 1:
            yield f"{task}: versions {' and '.join(sorted(versions))}"
        rates = [rate for entry in entries if (rate := entry.rate) is not None]
        if rates and max(rates) - min(rates) > LEAST_RATE:
            yield f"{task}: chances {min(rates):.3g} and {max(rates):.3g}"
        names = {score.metric for entry in entries for score in entry.result.scores}
        yield from (f"{task}: {told}" for told in unlike_metrics(names))


def unlike_metrics(names: Iterable[str]) -> Iterable[str]:
    """Metrics of one task, by their names in the harness, that would share a record."""
    by_measure: dict[str, set[str]] = {}
    for name in names:
        by_measure.setdefault(measure_of(name), set()).add(name.removesuffix(",none"))
    for measure, several in by_measure.items():
        if len(several) > 1:
            yield f"{' and '.join(sorted(several))} as {measure}"


def size(entry: Entry, measure: str = "accuracy") -> int:
    """Number of samples of a task; 0 where nothing tells it.

    Files of the old format do not say it, but the standard error of a share p of n samples in them
    is sqrt(p (1 - p) / (n - 1)), which does.
    """
    if entry.result.n:
        return entry.result.n
    if entry.samples is not None:
        return entry.samples.n
    for score in entry.result.scores:
        if score.measure == measure and 0.0 < score.value < 1.0 and score.stderr > LEAST_ERROR:
            return round(score.value * (1.0 - score.value) / score.stderr**2 + 1.0)
    return 0


def sizes(found: Collected) -> Mapping[str, int]:
    """Number of samples by task: the median over checkpoints of those that tell it, or 0."""
    return {
        task: round(statistics.median([n for n in map(size, found.of(task)) if n] or [0]))
        for task in found.tasks
    }


def error(value: float, stderr: float, n: int) -> float:
    """Standard error of a share: its own, or else that of n independent samples, or NaN."""
    if not math.isnan(stderr):
        return stderr
    return math.sqrt(value * (1.0 - value) / n) if n else math.nan
