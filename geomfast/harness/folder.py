"""Results as records: ``OUT/behaviour/RUN/step-00001000.behaviour.parquet``, and behaviour.json.

They are beside the records of geometry and not among them: a checkpoint's weights are named by
another hash there, and its own behaviour on probes is there too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from geomfast.files import fingerprint, read_sealed, write_sealed
from geomfast.harness.collected import Collected, Entry, error, refuse, sizes, unlike_metrics
from geomfast.harness.names import Checkpoint
from geomfast.harness.results import SHARES
from geomfast.harness.tasks import Known, fitting, known
from geomfast.records import part_files, read_part
from geomfast.records.part import write_part
from geomfast.records.schema import part_name
from geomfast.runs.errors import PlanError
from geomfast.runs.folder import BEHAVIOUR_OF_HARNESS

#: Folder of the records in OUT, and what they are about.
RECORDS, NAME = BEHAVIOUR_OF_HARNESS
FORMAT = "geomfast behaviour 1"
#: Record of the mean share of the right choice in the probabilities of all choices.
CHOICE_PROBABILITY = "choice_probability"
#: What probe sets have, which know no difficulty.
LEVEL = 1
#: Where a rate of blind guesses is from, the most trusted first.
_TRUST = ("given", "choices", "table", "free answer", "")
_BACKEND = "lm-evaluation-harness"


def geometry_runs(out: Path) -> dict[str, tuple[str, int]]:
    """Scale and seed by run of the records of geometry in a folder; empty where it has none."""
    root = out / "records"
    found: dict[str, tuple[str, int]] = {}
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        files = part_files(folder) if folder.is_dir() else []
        if not files:
            continue
        table = read_part(files[0]).select(["run", "scale", "seed"]).to_pydict()
        for run, scale, seed in zip(*table.values(), strict=True):
            found[run] = (scale, seed)
    return found


def read_behaviour(out: Path) -> dict[str, Any]:
    """The content of a folder's ``behaviour.json``; empty where there is none.

    Raises:
        PlanError: it is of something else, or has changed since it was written.
    """
    path = out / NAME
    try:
        content = read_sealed(path)
    except FileNotFoundError:
        return {}
    parts = {"tasks": dict, "left_out": dict, "tasks_left_out": dict, "groups": list, "calls": list}
    whole = all(isinstance(content.get(name), kind) for name, kind in parts.items())
    if content.get("format") != FORMAT or not whole:
        raise PlanError(f"{path} is not of geomfast behaviour")
    return content


def write(
    out: Path,
    found: Collected,
    call: Mapping[str, Any],
    *,
    chances: Mapping[str, float] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Add results to a folder.

    Args:
        out: the folder, new or of earlier results, or of ``geomfast measure``.
        found: the results.
        call: description of the command.
        chances: rates of blind guesses that are given, by task or pattern.
        kinds: kinds of tasks that are given, by task or pattern.

    Returns:
        ``checkpoints`` and ``values`` (how many were written, and how many were there already),
        and ``content``: all of ``behaviour.json``.

    Raises:
        PlanError: something else was recorded for a task of a checkpoint before, or its other
            checkpoints are of another model, version, metric or number of shots; it lists them.
            Or a rate or kind is given for no task that is here.
        RecordsError: a part that is there is damaged.
    """
    before = read_behaviour(out)
    geometry = geometry_runs(out)
    counts = sizes(found)
    tasks = dict(before.get("tasks", {}))
    models = {run: set(names) for run, names in before.get("models", {}).items()}
    there = {*tasks, *found.tasks}
    for option, values in (("--chance", chances or {}), ("--kind", kinds or {})):
        if idle := [name for name in values if not fitting(name, there)]:
            raise PlanError(f"{option} {idle[0]}: no task here has this name")
    unlike: list[str] = []
    for task in found.tasks:
        entries = found.of(task)
        told = known(task, _rate(entries), entries[0].result.free, chances=chances, kinds=kinds)
        earlier = tasks.get(task, {})
        tasks[task] = _described(told, entries, counts[task], earlier)
        unlike += [f"{task}: {why}" for why in _unlike(earlier, tasks[task])]
    for run, names in found.models.items():
        models.setdefault(run, set()).update(names)
        if len(models[run]) > 1:
            unlike.append(f"{run}: {' and '.join(sorted(models[run]))}")
    refuse(unlike, f"{out} has other results, which are no one curve with these; give another OUT")
    written = {"checkpoints": 0, "values": 0, "known": 0}
    wrong: list[str] = []
    parts = []
    for checkpoint, results in found.checkpoints.items():
        scale, seed = geometry.get(checkpoint.run, (checkpoint.scale, checkpoint.seed))
        rows = [*_rows(checkpoint, scale, seed, results, counts, tasks)]
        path = out / RECORDS / checkpoint.run / part_name(checkpoint.step, ["behaviour"])
        old = read_part(path).to_pylist() if path.exists() else []
        keyed = {(row["task"], row["measure"]): row for row in old}
        new = []
        for row in rows:
            known_row = keyed.get((row["task"], row["measure"]))
            if known_row is None:
                new.append(row)
            elif known_row["value"] == row["value"] and known_row["run"] == row["run"]:
                written["known"] += 1
            else:
                wrong.append(
                    f"{row['run']}, step {row['step']}, {row['task']}, {row['measure']}: "
                    f"{known_row['value']:.6g} before, {row['value']:.6g} now"
                )
        if new:
            parts.append((path, old + new))
            written["checkpoints"] += 1
            written["values"] += len(new)
    refuse(wrong, f"{out} has other values of these; give another OUT")
    content = {
        "format": FORMAT,
        "tasks": tasks,
        "groups": sorted({*before.get("groups", []), *found.groups}),
        "left_out": before.get("left_out", {}) | found.left_out,
        "tasks_left_out": before.get("tasks_left_out", {}) | found.tasks_left_out,
        "models": {run: sorted(names) for run, names in sorted(models.items())},
        "calls": [*before.get("calls", []), dict(call)],
    }
    # First what explains the records: the command that is killed here can be run again.
    write_sealed(out / NAME, content)
    for path, rows in parts:
        write_part(path, rows)
    return written | {"content": content}


def _rate(entries: Iterable[Entry]) -> float | None:
    """Rate of blind guesses that most samples or results tell; None where none does."""
    told = [(entry.result.n, rate) for entry in entries if (rate := entry.rate) is not None]
    return max(told)[1] if told else None


def _described(
    told: Known, entries: list[Entry], n: int, before: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``behaviour.json`` says of a task; what is known stays known."""
    result = entries[0].result
    chance = None if math.isnan(told.chance) else told.chance
    counted = "given" if any(entry.result.n for entry in entries) else "from the standard error"
    found = {
        "chance": chance,
        "chance_from": told.source,
        "kind": told.kind,
        "kind_from": told.kind_source,
        "collection": told.collection,
        "n": n,
        "n_from": counted if n else "",
        "shots": result.shots,
        "version": result.version,
        "metrics": sorted({score.metric for entry in entries for score in entry.result.scores}),
    }
    if before:
        if _TRUST.index(told.source) > _TRUST.index(before["chance_from"]):
            found |= {"chance": before["chance"], "chance_from": before["chance_from"]}
        if before.get("kind_from") == "given" and told.kind_source != "given":
            found |= {"kind": before["kind"], "kind_from": "given"}
        found["metrics"] = sorted({*before["metrics"], *found["metrics"]})
        for name, unknown in (("shots", None), ("version", ""), ("n", 0)):
            found[name] = before[name] if found[name] == unknown else found[name]
    return found


def _unlike(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    """What of a task is another than it was, so that its checkpoints cannot be compared."""
    for name, what in (("shots", "shots"), ("version", "version")) if before else ():
        if before[name] not in (None, "", now[name]):
            yield f"{what} {before[name]} before, {now[name]} now"
    yield from unlike_metrics(now["metrics"])


def _rows(
    checkpoint: Checkpoint,
    scale: str,
    seed: int,
    results: Mapping[str, Entry],
    counts: Mapping[str, int],
    tasks: Mapping[str, Mapping[str, Any]],
) -> Iterable[dict[str, Any]]:
    """Rows of :data:`geomfast.records.COLUMNS`."""
    weights = fingerprint(
        {"model": checkpoint.model, "run": checkpoint.run, "step": checkpoint.step}
    )
    for task, entry in sorted(results.items()):
        told = {name: tasks[task][name] for name in ("shots", "version")}
        n = entry.result.n or counts[task]
        common = {
            "run": checkpoint.run,
            "scale": scale,
            "seed": seed,
            "step": checkpoint.step,
            "tokens": None,
            "task": task,
            "level": LEVEL,
            "layer": "",
            "n": n,
            "weights": weights,
            "data": fingerprint({"task": task, **told}),
            "backend": _BACKEND,
            "device": "",
            "seconds": 0.0,
        }
        values = [(score.measure, score.value, score.stderr) for score in entry.result.scores]
        if entry.samples is not None:
            values.append((CHOICE_PROBABILITY, entry.samples.probability, entry.samples.stderr))
        for measure, value, stderr in values:
            if measure in SHARES:
                stderr = error(value, stderr, n)
            settings = fingerprint({"measure": measure, "source": _BACKEND})
            yield common | {
                "measure": measure, "value": value, "stderr": stderr, "settings": settings
            }  # fmt: skip
