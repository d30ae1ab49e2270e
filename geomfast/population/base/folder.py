"""The folder of a population from bases: that of a population, with bases as its scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geomfast.files import fingerprint, plain_name
from geomfast.population.base.memory import group_size, members_per_program
from geomfast.population.base.plan import Base, BaseSettings, measure_settings, recipe
from geomfast.population.folder import KIND
from geomfast.runs.cadence import Cadence, merge_cadences
from geomfast.runs.errors import PlanError
from geomfast.runs.folder import check_same_settings
from geomfast.runs.groups import parts
from geomfast.runs.settings_file import plain, read_settings


def scale_names(sources: Sequence[str]) -> dict[str, str]:
    """Source of every base by the name of its scale: the last part of folder or hub name.

    Raises:
        PlanError: two bases of one name.
        UnsafeName: a name that no folder can have.
    """
    found: dict[str, str] = {}
    for source in sources:
        folder = Path(source).expanduser()
        # A folder such as . or .. has its name from where it leads.
        name = folder.resolve().name if folder.is_dir() else source.rstrip("/").rpartition("/")[2]
        plain_name(name, "base")
        if name in found:
            raise PlanError(f"--base {found[name]} and --base {source} have one name, {name}")
        # Workers of a cluster may have another current folder.
        found[name] = str(folder.resolve()) if folder.is_dir() else source
    return found


def merge_settings(
    out: Path,
    settings: BaseSettings,
    bases: Sequence[Base],
    seeds: Sequence[int],
    *,
    examples: Mapping[str, Any],
    success: float,
    room: int,
    device: str,
    cadence: Cadence | None = None,
) -> dict[str, Any]:
    """Content of OUT's ``settings.json``, with these members added to it.

    Members that no group has yet form new ones; a group stays as it was begun.

    Args:
        out: the population's folder; nothing is written.
        settings: what its members share.
        bases, seeds: asked for.
        examples: facts about the files, for a reader.
        success: score from which a report counts a member as successful.
        room: bytes that a new group may take.
        device: where new groups will be trained.
        cadence: at how many checkpoints each measure is taken; at all where it is not named.

    Raises:
        PlanError: OUT belongs to something else, or to a population with other settings.
    """
    path = out / "settings.json"
    recipes = {base.name: recipe(settings, base) for base in bases}
    grid: dict[str, list[Any]] = {"scales": [base.name for base in bases], "seeds": list(seeds)}
    cadence = dict(cadence or {})
    groups: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    hashes: dict[str, Any] = {}
    names = settings.measures
    if path.exists():
        before = read_settings(path, KIND)
        both = {name: told for name, told in before["recipes"].items() if name in recipes}
        there, now = before["settings"], plain(asdict(settings))
        so_far = there.get("measures")
        if isinstance(so_far, list) and all(isinstance(name, str) for name in so_far):
            now["measures"] = so_far  # more of them add work, as bases and seeds do
        else:
            so_far = []
        check_same_settings(out, there | both, now | {name: recipes[name] for name in both}, KIND)
        names = tuple(dict.fromkeys((*so_far, *names)))
        hashes = before.get("hashes", {})
        recipes = before["recipes"] | recipes
        grid = {key: list(dict.fromkeys((*before["grid"][key], *grid[key]))) for key in grid}
        rarer = before["grid"].get("cadence", {})
        cadence = merge_cadences(rarer, so_far, cadence, settings.measures)
        groups, calls = before.get("groups", []), before["calls"]
    for base in bases:
        known = {seed for group in groups if group["scale"] == base.name for seed in group["seeds"]}
        fresh = [seed for seed in seeds if seed not in known]
        for part in parts(fresh, group_size(base, settings, room)):
            name = f"{settings.task}-{base.name}-seeds{part[0]}-{part[-1]}"
            count = members_per_program(base, settings, len(part), device)
            group = {"name": name, "scale": base.name, "seeds": list(part), "at_once": count}
            groups.append(group)
    hashes = hashes | {
        fingerprint(told): told for told in (measure_settings(settings, m) for m in settings.taken)
    }
    hashes |= {
        base.data: {"task": settings.task, "base": base.name, "samples": base.examples[1]}
        for base in bases
    }
    return {
        "format": f"geomfast {KIND} 1",
        "settings": plain(asdict(settings) | {"measures": names}),
        "success": {settings.task: success},
        "examples": dict(examples),
        "not stacked": {base.name: base.reason for base in bases if base.reason},
        "recipes": recipes,
        "grid": grid | {"cadence": cadence},
        "groups": groups,
        "hashes": hashes,
        "calls": calls,
    }
