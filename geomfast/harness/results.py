"""One results file of the lm-evaluation-harness, of its old or its present format.

Versions up to 0.3 write ``{"acc": 0.4, "acc_stderr": 0.01}`` for a task and its model as one text;
later ones ``{"acc,none": 0.4, "acc_stderr,none": 0.01}``, where what follows the comma is the
filter that answers went through, and the number of samples beside.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from geomfast.files import FileError, printable

#: Record of a metric of the harness; of several for one record, the first that a task has counts.
METRICS: dict[str, str] = {
    "acc": "accuracy",
    "exact_match": "accuracy",
    "em": "accuracy",
    "mc1": "accuracy",
    "pass@1": "accuracy",
    "pass_at_1": "accuracy",
    "acc_norm": "accuracy_by_size",
    "perplexity": "perplexity",
    "ppl": "perplexity",
    "word_perplexity": "word_perplexity",
    "byte_perplexity": "byte_perplexity",
    "bits_per_byte": "bits_per_byte",
}
#: Records that are shares.
SHARES = ("accuracy", "accuracy_by_size")
#: Filters whose answers count, the first that there is; of others the first by name.
FILTERS = ("none", "strict-match", "get-answer", "flexible-extract")
_LONGEST = 300
#: Most characters of a model's name, which may be a path.
_LONGEST_PATH = 4096
#: Largest number of samples that is taken for one.
_MOST = 1 << 53


class NoResult(FileError):
    """A file that is no results file of the harness; the message says why."""


@dataclass(frozen=True)
class Score:
    """One number of a task.

    Attributes:
        measure: name of its record: accuracy, accuracy_by_size, perplexity, ...
        metric: the harness's own name, with its filter.
        value: in the unit of the measure; shares are between 0 and 1.
        stderr: its standard error; NaN where the file has none.
    """

    measure: str
    metric: str
    value: float
    stderr: float


@dataclass(frozen=True)
class TaskResult:
    """Scores of one task.

    Attributes:
        task: its name.
        scores: at most one of each measure.
        n: number of samples; 0 where the file does not tell.
        shots: examples in every prompt; None where the file does not tell.
        version: of the task, as the file has it.
        chance: one over the number of choices, where all questions have the same, known number.
        free: whether answers are written freely.
    """

    task: str
    scores: tuple[Score, ...]
    n: int
    shots: int | None
    version: str
    chance: float | None
    free: bool


@dataclass(frozen=True)
class Results:
    """A results file.

    Attributes:
        name: of the file.
        model: as the harness was told it: a name on a hub, or a folder.
        revision: of the model; empty where none was told.
        adapter: of the model, such as that of PEFT; empty for none.
        tasks: with a record, by name.
        groups: names of aggregates over tasks, which are left out.
        left_out: tasks without a record, and why, by name.
    """

    name: str
    model: str
    revision: str
    adapter: str
    tasks: Mapping[str, TaskResult]
    groups: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


def measure_of(metric: str) -> str:
    """The record of a metric by its name in the harness, with or without a filter."""
    return METRICS[metric.partition(",")[0]]


def read_results(name: str, content: bytes) -> Results:
    """Read one file.

    Args:
        name: of the file, for messages.
        content: its bytes.

    Raises:
        NoResult: it is no results file, or names no model.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NoResult(f"no JSON: {str(error).splitlines()[0][:_LONGEST]}") from error
    if not isinstance(value, dict) or not isinstance(value.get("results"), dict):
        raise NoResult("no results of the lm-evaluation-harness: it has no object 'results'")
    model, revision, adapter = _model(value)
    groups = _groups(value)
    tasks: dict[str, TaskResult] = {}
    left_out: dict[str, str] = {}
    for task, told in value["results"].items():
        if task in groups:
            continue
        if not isinstance(told, dict):
            left_out[_text(task)] = "its scores are no object"
            continue
        scores, why = _scores(told)
        if not scores and not why:
            others = [name for name in sorted(_metrics(told)) if not name.endswith("_stderr")]
            why = f"no accuracy, only {', '.join(others) or 'texts'}"
        if why:
            left_out[_text(task)] = why
        if scores:
            tasks[_text(task)] = _task(task, told, value, scores)
    return Results(name, model, revision, adapter, tasks, tuple(sorted(groups)), left_out)


def _model(value: Mapping[str, Any]) -> tuple[str, str, str]:
    """Model, revision and adapter."""
    config = value.get("config")
    config = config if isinstance(config, dict) else {}
    arguments = config.get("model_args")
    if isinstance(arguments, str):
        pairs = (part.partition("=") for part in arguments.split(","))
        arguments = {key.strip(): text.strip() for key, mark, text in pairs if mark}
    arguments = arguments if isinstance(arguments, dict) else {}
    told = [arguments.get(key) for key in ("pretrained", "model", "path", "engine")]
    told.append(value.get("model_name"))
    model = next((each for each in told if isinstance(each, str) and each), None)
    if model is None:
        raise NoResult("it names no model: neither config.model_args nor model_name does")
    adapter = next((arguments[k] for k in ("peft", "delta") if arguments.get(k)), "")
    revision = arguments.get("revision") or ""
    names = (model, str(revision), str(adapter))
    if wrong := next((name for name in names if printable(name) != name), None):
        raise NoResult(f"the name {_text(wrong)} of its model holds control characters")
    if max(map(len, names)) > _LONGEST_PATH:
        raise NoResult(f"the name of its model has more than {_LONGEST_PATH:,} characters")
    return names


def _groups(value: Mapping[str, Any]) -> set[str]:
    """Names of aggregates: what is listed as a group, and what has tasks under it."""
    groups, below = value.get("groups"), value.get("group_subtasks")
    found = set(groups) if isinstance(groups, dict) else set()
    if isinstance(below, dict):
        found |= {name for name, tasks in below.items() if tasks}
    return found


def _task(
    task: str, told: Mapping[str, Any], value: Mapping[str, Any], scores: tuple[Score, ...]
) -> TaskResult:
    def of_task(name: str) -> Any:
        part = value.get(name)
        return part.get(task) if isinstance(part, dict) else None

    config, counts = of_task("configs"), of_task("n-samples")
    config = config if isinstance(config, dict) else {}
    counts = counts if isinstance(counts, dict) else {"effective": counts}
    n = next(
        (
            n
            for n in (counts.get("effective"), told.get("sample_len"))
            if type(n) is int and 0 < n <= _MOST
        ),
        0,
    )
    whole = value.get("config")
    everywhere = whole.get("num_fewshot") if isinstance(whole, dict) else None
    shots = next(
        (s for s in (of_task("n-shot"), config.get("num_fewshot"), everywhere) if type(s) is int),
        None,
    )
    choices, kind = config.get("doc_to_choice"), config.get("output_type")
    rate = 1 / len(choices) if isinstance(choices, list) and len(choices) > 1 else None
    free = kind in ("generate_until", "loglikelihood", "loglikelihood_rolling")
    return TaskResult(_text(task), scores, n, shots, _version(of_task("versions")), rate, free)


def _version(value: Any) -> str:
    """The version of a task; 1 and 1.0 are the same, and some files of 0.4.0 have *Yaml*."""
    return "" if value in (None, "Yaml") else _text(value).removesuffix(".0")


def _metrics(told: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Numbers by metric and filter; the filter of the old format is empty."""
    found: dict[str, dict[str, float]] = {}
    for key, number in told.items():
        metric, _, through = key.partition(",")
        if isinstance(number, int | float) and not isinstance(number, bool):
            try:
                found.setdefault(metric, {})[through] = float(number)
            except OverflowError:
                found.setdefault(metric, {})[through] = math.inf
    found.pop("sample_len", None)
    return found


def _scores(told: Mapping[str, Any]) -> tuple[tuple[Score, ...], str]:
    """The scores of a task, and what is wrong with those that are missing; empty where nothing."""
    metrics, found, wrong = _metrics(told), {}, []
    for metric, measure in METRICS.items():
        values = metrics.get(metric)
        if not values or measure in found:
            continue
        through = next((f for f in ("", *FILTERS) if f in values), min(values))
        value = values[through]
        error = metrics.get(f"{metric}_stderr", {}).get(through, math.nan)
        name = f"{metric},{through}" if through else metric
        if not 0.0 <= value <= (1.0 if measure in SHARES else sys.float_info.max):
            wrong.append(f"{name} is {value:g}")
        else:
            error = error if math.isfinite(error) and error >= 0 else math.nan
            if error == 0 and measure in SHARES and 0.0 < value < 1.0:
                error = math.nan  # no share between has none
            found[measure] = Score(measure, name, value, error)
    return tuple(found.values()), "; ".join(wrong)


def _text(value: Any) -> str:
    return printable(str(value)).replace("\n", "\\n").replace("\t", "\\t")[:_LONGEST]
