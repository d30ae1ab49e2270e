"""Sample files of the harness (``--log_samples``): the answer to every question of a task.

They tell what a results file does not: how many choices a question had, which is the rate of blind
guesses, and the probability of the right choice, which moves before accuracy does.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomfast.files import FileError

#: ``samples_TASK_DATE.jsonl`` beside ``results_DATE.json``.
_NAME = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[0-9-.]+)\.jsonl")
_RESULTS = re.compile(r"results_(?P<date>\d{4}-\d\d-\d\dT[0-9-.]+)\.json")


@dataclass(frozen=True)
class Samples:
    """What the samples of one multiple-choice task tell.

    Attributes:
        task: its name.
        n: questions.
        chance: mean over questions of one over the number of choices.
        probability: mean share of the right choice in the probabilities of all choices.
        stderr: its standard error.
    """

    task: str
    n: int
    chance: float
    probability: float
    stderr: float


def date_of(name: str) -> str | None:
    """The date of a results file, which its sample files share; None of other files."""
    last = name.rpartition("/")[2]
    found = _NAME.fullmatch(last) or _RESULTS.fullmatch(last)
    return found["date"] if found else None


def task_of(name: str) -> str | None:
    """The task of a sample file by its name; None where it is none."""
    found = _NAME.fullmatch(name.rpartition("/")[2])
    return found["task"] if found else None


def read_samples(task: str, content: bytes) -> Samples | None:
    """Read one sample file.

    Args:
        task: its task.
        content: its bytes.

    Returns:
        None where its questions are not multiple choice.

    Raises:
        FileError: a line is no sample, or its probabilities are of something else than its accuracy
            is, such as sums over several right choices.
    """
    chances, shares = [], []
    seen: set[Any] = set()
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            sample = json.loads(line)
            identity = sample["doc_id"]
            pairs = sample["filtered_resps"]
            target = sample["target"]
            again = identity in seen
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FileError(f"line {number} is no sample: {error}") from error
        if again:  # once more through another filter
            continue
        seen.add(identity)
        logprobs = _logprobs(pairs)
        right = _index(target)
        if logprobs is not None and "acc_mutual_info" in sample:
            # The second half is of the choices without their question.
            logprobs = logprobs[: len(logprobs) // 2]
        if logprobs is None or right is None or not 0 <= right < len(logprobs):
            return None
        accuracy = sample.get("acc")
        if accuracy is not None and accuracy != (logprobs.argmax() == right):
            raise FileError(f"line {number}: the likeliest choice does not tell its accuracy")
        chances.append(1.0 / len(logprobs))
        odds = np.exp(logprobs - logprobs.max())
        shares.append(float(odds[right] / odds.sum()))
    if not shares:
        return None
    n, values = len(shares), np.array(shares)
    error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Samples(task, n, float(np.mean(chances)), float(values.mean()), error)


def _logprobs(pairs: Any) -> np.ndarray | None:
    """(choices,) log-probabilities in nats; None where the answers are none of several choices."""
    if not isinstance(pairs, list) or len(pairs) < 2:
        return None
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return None
    try:
        found = np.array([float(pair[0]) for pair in pairs])
    except (TypeError, ValueError, OverflowError):
        return None
    return found if np.isfinite(found.max()) and not np.isnan(found).any() else None


def _index(target: Any) -> int | None:
    """The number of the right choice, which the harness writes as text."""
    try:
        return int(target)
    except (TypeError, ValueError):
        return None
