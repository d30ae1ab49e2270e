"""Which runs of a sweep are trained as one group. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from geomfast.records import part_files
from geomfast.runs.groups import GROUP_SIZE, parts
from geomfast.sweep.plan import RunSpec


def groups_of_cells(
    before: Sequence[dict[str, Any]],
    asked: Sequence[RunSpec],
    out: Path,
    per_program: Callable[[RunSpec, int], int],
    workers: int,
) -> list[dict[str, Any]]:
    """The groups of a sweep once these runs are asked of it, as ``settings.json`` has them.

    Runs that were begun by themselves stay by themselves.

    Args:
        before: the groups it has already.
        asked: runs of the grid; those that differ only in their seeds can be a group.
        out: the sweep's folder.
        per_program: how many of so many runs like this one are one program.
        workers: groups of a scale there should be at least, so that none has nothing to do.

    Returns:
        Name, runs and ``at_once`` of every group.
    """
    groups = list(before)
    known = {run for group in groups for run in group["runs"]}
    alike: dict[tuple[Any, ...], list[RunSpec]] = {}
    for spec in asked:
        if spec.run not in known and not _begun(out, spec.run):
            alike.setdefault((spec.scale, spec.varied, spec.tasks), []).append(spec)
    for specs in alike.values():
        most = min(GROUP_SIZE, -(-len(specs) // workers))
        for part in parts(specs, most):
            count = per_program(part[0], len(part)) if len(part) > 1 else 1
            if count > 1:
                first, last = part[0].seed, part[-1].seed
                name = f"{part[0].run.removesuffix(f'seed{first}')}seeds{first}-{last}"
                runs = [spec.run for spec in part]
                groups.append({"name": name, "runs": runs, "at_once": count})
    return groups


def _begun(out: Path, run: str) -> bool:
    records = out / "records" / run
    there = records.is_dir() and any(part_files(records))
    return there or any((out / "checkpoints" / run).glob("step-*"))
