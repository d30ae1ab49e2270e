"""Results files of the harness as its versions write them, with values of a test's choice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from geomfast.cli.main import main

DATE = "2026-11-30T19-07-04.540470"
N = 400


def old(
    scores: Mapping[str, float],
    *,
    step: int | str = 1000,
    model: str = "EleutherAI/pythia-70m",
    shots: int = 0,
    n: int = N,
) -> dict[str, Any]:
    """As versions up to 0.3 write it: accuracy by task, with its standard error."""
    return {
        "results": {
            task: {"acc": value, "acc_stderr": math.sqrt(value * (1 - value) / (n - 1))}
            for task, value in scores.items()
        },
        "versions": dict.fromkeys(scores, 0),
        "config": {
            "model": "hf-causal",
            "model_args": f"pretrained={model},revision=step{step}",
            "num_fewshot": shots,
            "limit": None,
        },
    }


def new(
    scores: Mapping[str, float | Mapping[str, Any]],
    *,
    step: int | str | None = 1000,
    model: str = "EleutherAI/pythia-70m",
    shots: int = 0,
    n: int = N,
    choices: int = 0,
    groups: Mapping[str, Sequence[str]] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """As version 0.4 writes it: accuracy by task, or all of its scores."""

    def whole(value: float | Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {"alias": "x", **value}
        error = math.sqrt(value * (1 - value) / (n - 1))
        return {"alias": "x", "acc,none": value, "acc_stderr,none": error}

    how: dict[str, Any] = {"output_type": "multiple_choice"} if choices else {}
    if choices:
        how["doc_to_choice"] = [chr(ord("A") + i) for i in range(choices)]
    told = {"pretrained": model, **({} if step is None else {"revision": f"step{step}"})}
    return {
        "results": {task: whole(value) for task, value in scores.items()},
        "group_subtasks": {name: list(below) for name, below in (groups or {}).items()},
        "configs": {task: {"task": task, "num_fewshot": shots, **how} for task in scores},
        "versions": dict.fromkeys(scores, 1.0),
        "n-shot": dict.fromkeys(scores, shots),
        "n-samples": {task: {"original": n, "effective": n} for task in scores},
        "config": {"model": "hf", "model_args": {**told, **arguments}, "limit": None},
        "model_name": model,
    }


def sample(index: int, logprobs: Sequence[float], right: int, **more: Any) -> dict[str, Any]:
    """A question of a multiple-choice task, with its answer."""
    likeliest = max(range(len(logprobs)), key=logprobs.__getitem__)
    return {
        "doc_id": index,
        "target": str(right),
        "filtered_resps": [[str(value), "False"] for value in logprobs],
        "filter": "none",
        "metrics": ["acc"],
        "acc": float(likeliest == right),
        **more,
    }


def lines(samples: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in samples)


def put(path: Path, value: Any) -> Path:
    """A file with a value as JSON, or with bytes; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


def training(
    folder: Path,
    curves: Mapping[str, Sequence[float]],
    steps: Sequence[int],
    **how: Any,
) -> Path:
    """A folder with a results file for every step: accuracy by task and step."""
    name = str(how.get("model", "pythia-70m")).rpartition("/")[2]
    for i, step in enumerate(steps):
        scores = {task: values[i] for task, values in curves.items()}
        put(folder / name / f"step{step}.json", new(scores, step=step, **how))
    return folder


def behaviour(out: Path, *arguments: Any) -> Result:
    return CliRunner().invoke(main, ["behaviour", str(out), *map(str, arguments)])


def told(out: Path, *arguments: Any) -> dict[str, Any]:
    """What the command prints as JSON."""
    result = behaviour(out, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
