"""The folder a population lives in: the rules of a sweep's, and the groups its members form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from geomfast.files import fingerprint
from geomfast.population.plan import (
    BEFORE,
    PopulationSettings,
    at_point,
    diagnostic_settings,
    measure_settings,
    recipe,
    scale_of,
)
from geomfast.population.points import parsed
from geomfast.runs.cadence import Cadence, merge_cadences
from geomfast.runs.errors import PlanError
from geomfast.runs.folder import check_same_settings
from geomfast.runs.groups import Group, parts
from geomfast.runs.settings_file import plain, read_settings
from geomfast.testbed.training.stacking import members_per_program

KIND = "population"


def merge_settings(
    out: Path,
    settings: PopulationSettings,
    scales: Sequence[str],
    seeds: Sequence[int],
    *,
    stack: str,
    device: str,
    tokens: Mapping[str, int],
    cadence: Cadence | None = None,
    varied: Sequence[str] = (),
) -> dict[str, Any]:
    """Content of OUT's ``settings.json``, with these members added to it.

    Members that no group has yet form new ones; a group stays as it was begun, so that what it has
    done can be resumed.

    Args:
        out: the population's folder; nothing is written.
        settings: what its members share.
        scales: asked for, points of the axis among them.
        seeds: likewise.
        stack: see :func:`geomfast.testbed.training.stacking.members_per_program`.
        device: where new groups will be trained.
        tokens: by scale, of a member's step, padding included.
        cadence: at how many checkpoints each measure is taken; at all where it is not named.
        varied: settings that all these points have of their own, whatever the others share.

    Raises:
        PlanError: OUT belongs to something else, or to a population with other settings.
    """
    path = out / "settings.json"
    recipes = {name: recipe(settings, name) for name in scales}
    grid: dict[str, list[Any]] = {"scales": list(scales), "seeds": list(seeds)}
    cadence = dict(cadence or {})
    groups: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    hashes: dict[str, Any] = {}
    there: dict[str, Any] = {}
    names = settings.measures
    if path.exists():
        before = read_settings(path, KIND)
        both = {name: told for name, told in before["recipes"].items() if name in recipes}
        now = plain(asdict(settings)) | {name: recipes[name] for name in both}
        there = BEFORE | before["settings"]
        now |= {name: there[name] for name in varied}
        so_far = there["measures"]
        if isinstance(so_far, list) and all(isinstance(name, str) for name in so_far):
            now["measures"] = so_far  # more of them add work, as scales and seeds do
        check_same_settings(out, there | both, now, KIND)
        names = tuple(dict.fromkeys((*so_far, *names)))
        hashes = before.get("hashes", {})
        recipes = before["recipes"] | recipes
        grid = {key: list(dict.fromkeys((*before["grid"][key], *grid[key]))) for key in grid}
        # Folders from before there was a cadence were measured at every checkpoint.
        rarer = before["grid"].get("cadence", {})
        cadence = merge_cadences(rarer, so_far, cadence, settings.measures)
        groups, calls = before["groups"], before["calls"]
    for name in scales:
        known = {seed for group in groups if group["scale"] == name for seed in group["seeds"]}
        fresh = [seed for seed in seeds if seed not in known]
        for part in parts(fresh):
            count = members_per_program(
                len(part), scale_of(settings, name), tokens[name], device, stack
            )
            group = f"{settings.task}-{name}-seeds{part[0]}-{part[-1]}"
            groups.append({"name": group, "scale": name, "seeds": list(part), "at_once": count})
    hashes = hashes | {
        fingerprint(told): told for told in (measure_settings(settings, m) for m in settings.taken)
    }
    for name in scales:
        hashes |= diagnostic_settings(at_point(settings, name))
    shared = plain(asdict(settings)) | {name: there[name] for name in varied if path.exists()}
    _refuse_twins(replace(settings, **{name: shared[name] for name in varied}), grid["scales"])
    return {
        "format": f"geomfast {KIND} 1",
        "settings": shared | {"measures": list(names)},
        "recipes": recipes,
        "grid": grid | {"cadence": cadence},
        "groups": groups,
        "hashes": hashes,
        "calls": calls,
    }


def _refuse_twins(settings: PopulationSettings, points: Sequence[str]) -> None:
    """Refuse one setting under two names, which would count as two points.

    Raises:
        PlanError: names both.
    """
    known: dict[Any, str] = {}
    for point in points:
        of = (parsed(point)[0], at_point(settings, point))
        if of in known:
            raise PlanError(
                f"{known[of]} and {point} have the same settings: give the axis a value that "
                "differs, or another OUT"
            )
        known[of] = point


def groups_of(content: dict[str, Any], scales: Sequence[str], seeds: Sequence[int]) -> list[Group]:
    """The groups with any of these members, of what ``settings.json`` says, scale by scale."""
    wanted = set(seeds)
    found = [
        Group(told["name"], told["scale"], tuple(told["seeds"]), told["at_once"])
        for told in content["groups"]
        if told["scale"] in scales and wanted & set(told["seeds"])
    ]
    return sorted(found, key=lambda group: list(scales).index(group.scale))
