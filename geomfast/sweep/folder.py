"""The folder a sweep lives in, and what its ``settings.json`` says.

Settings shape the numbers, so a folder holds one set of them and another is refused.  The grid
(scales, learning rates, warm-ups, seeds, measures, and of how many checkpoints each is taken) only
adds work, so it may grow from call to call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

from geomfast.files import fingerprint
from geomfast.measures import catalog, measures
from geomfast.measures.spec import BEHAVIOUR
from geomfast.runs.cadence import merge_cadences
from geomfast.runs.errors import PlanError
from geomfast.runs.folder import check_same_settings
from geomfast.runs.settings_file import NAME as _SETTINGS
from geomfast.runs.settings_file import VARIED, plain, read_settings
from geomfast.sweep.plan import (
    MEASURE_SETTINGS,
    MIXTURES,
    RunSpec,
    Settings,
    diagnostic_settings,
    measure_settings,
    mixture_settings,
    recipe,
    run_specs,
)
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.tasks import LEVELS, TASK_NAMES, task_levels
from geomfast.testbed.training.settings import PRECISIONS


def merge_settings(out: Path, settings: Settings, grid: dict[str, Any]) -> dict[str, Any]:
    """Content of OUT's ``settings.json``, with this grid added to it.

    Args:
        out: the sweep's folder; nothing is written there.
        settings: what its runs share.
        grid: lists of the scales, seeds and measures asked for, of the learning rates and
            warm-ups where these are varied, and the cadence; merged with what is already there.

    Raises:
        PlanError: OUT belongs to a sweep with other settings.
    """
    path = out / _SETTINGS
    recipes = {
        "-".join(filter(None, (name, varied.label))): recipe(settings, name, varied=varied)
        for name in grid["scales"]
        for varied in dict.fromkeys(spec.varied for spec in grid_specs(settings, grid))
    }
    grid = {**grid, "cadence": dict(grid.get("cadence", {}))}
    calls, groups, hashes = [], [], {}
    if path.exists():
        before = _read(path)
        groups = before.get("groups", [])
        # Records of a measure whose package is not installed now are still of these settings.
        taken = before["grid"].get("measures", [])
        hashes = {
            name: told
            for name, told in before.get("hashes", {}).items()
            if isinstance(told, dict) and told.get("measure") in taken
        }
        settings, there = _settled(settings, before, grid["measures"])
        both = {name: recipe for name, recipe in before["recipes"].items() if name in recipes}
        check_same_settings(
            out,
            there | both,
            plain(asdict(settings)) | {name: recipes[name] for name in both},
        )
        grid = _grown(before["grid"], grid)
        recipes = before["recipes"] | recipes
        calls = before["calls"]
    levels = task_levels(settings.tasks, settings.measured_levels or settings.levels)
    hashes |= {
        fingerprint(value): value
        for value in (measure_settings(settings, m) for m in (BEHAVIOUR, *measures()))
    }
    hashes |= dict(diagnostic_settings(settings, level) for level in levels)
    for spec in run_specs(settings, ("",), (0,)):
        data = [diagnostic_settings(settings, level)[0] for level in spec.task_levels]
        hashes |= dict([mixture_settings(data)])
    return {
        "format": "geomfast sweep 1",
        "settings": plain(asdict(settings)),
        "recipes": recipes,
        "grid": grid,
        "groups": groups,
        "chance": {level.name: level.chance for level in levels},
        "hashes": hashes,
        "calls": calls,
    }


def read_folder(out: Path) -> tuple[Settings, list[RunSpec]]:
    """Settings and runs of the sweep in a folder.

    Raises:
        PlanError: there is no sweep there.
    """
    if not out.is_dir():
        raise PlanError(f"no such folder: {out}")
    if not (out / _SETTINGS).exists():
        raise PlanError(f"{out} has no {_SETTINGS}: not a sweep's folder")
    content = _read(out / _SETTINGS)
    values: dict[str, Any] = _defaults() | content["settings"]
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    settings = Settings(**values)
    return settings, grid_specs(settings, content["grid"])


def grid_specs(settings: Settings, grid: Mapping[str, Any]) -> list[RunSpec]:
    """The runs of a grid as ``settings.json`` has it."""
    varied = {name: grid[name] for name in VARIED if grid.get(name)}
    return run_specs(settings, grid["scales"], grid["seeds"], **varied)


def _read(path: Path) -> dict[str, Any]:
    """The content of a sweep's ``settings.json``, whose settings and grid can be those of one.

    Raises:
        PlanError: they cannot.
    """
    content = read_settings(path)
    values, grid = _defaults() | content["settings"], content["grid"]
    if set(values) != {field.name for field in fields(Settings)}:
        raise PlanError(f"{path} is of another version of geomfast")
    for field in fields(Settings):
        if not _is(values[field.name], str(field.type)):
            raise PlanError(f"{path}: setting {field.name} is {values[field.name]!r:.60}")
    among = {"tasks": (values["tasks"], TASK_NAMES), "levels": (values["levels"], LEVELS)}
    among |= {"mixture": ([values["mixture"]], MIXTURES), "scales": (grid.get("scales"), SCALES)}
    among["precision"] = ([values["precision"]], PRECISIONS)
    for name, (found, existing) in among.items():
        for value in found or [None]:
            if value not in existing:
                raise PlanError(f"{path}: {value!r:.60} is none of the {name} there are")
    if not grid.get("seeds"):
        raise PlanError(f"{path}: its grid has no seeds")
    for steps in grid.get("warmups", []):
        if isinstance(steps, float):
            raise PlanError(f"{path}: a warm-up of {steps!r} steps")
    if not _is(list(grid.get("cadence", {}).values()), "tuple[int, ...]"):
        raise PlanError(f"{path}: its cadence is no number of checkpoints by measure")
    return content


def _is(value: Any, kind: str) -> bool:
    """Whether a value from JSON has the type of its field in :class:`Settings`."""
    kinds = re.split(r" \| (?![^\[]*\])", kind)  # but for those inside of brackets
    if len(kinds) > 1:
        return any(_is(value, one) for one in kinds)
    if kind == "None":
        return value is None
    if kind.startswith("tuple["):
        inside = kind[len("tuple[") :].rpartition(",")[0]
        return isinstance(value, list) and all(_is(each, inside) for each in value)
    if kind == "float":
        return type(value) in (int, float)
    return type(value).__name__ == kind


def _defaults() -> dict[str, Any]:
    """Default values of settings, for folders that do not name them."""
    return plain({f.name: f.default for f in fields(Settings) if f.default is not MISSING})


def _settled(
    settings: Settings, before: dict[str, Any], measures: list[str]
) -> tuple[Settings, dict[str, Any]]:
    """The settings asked for and those before, where those of a measure may differ.

    They may until it is taken for the first time, and where it is not asked for.
    """
    there = _defaults() | before["settings"]
    for measure, names in MEASURE_SETTINGS.items():
        alike = {
            measure,
            *(name for name, spec in catalog().specs.items() if spec.shares == measure),
        }
        if alike.isdisjoint(before["grid"].get("measures", [])):
            there |= {name: getattr(settings, name) for name in names}
        elif alike.isdisjoint(measures):
            settings = replace(settings, **{name: there[name] for name in names})
    return settings, there


def _grown(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A sweep's grid and what is asked for in addition."""
    # A folder from before measures had a cadence took them at every checkpoint.
    measures, cadence = before.get("measures", []), before.get("cadence", {})
    lists = {key: before.get(key, []) for key in now if key != "cadence"}
    for key in VARIED:  # which a folder that varies none does not name
        if before.get(key) or now.get(key):
            lists[key], now = before.get(key) or [None], {**now, key: now.get(key) or [None]}
    return {
        **{key: list(dict.fromkeys((*values, *now[key]))) for key, values in lists.items()},
        "cadence": merge_cadences(cadence, measures, now["cadence"], now["measures"]),
    }
