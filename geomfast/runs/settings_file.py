"""Reads and writes ``settings.json`` of a folder, which is not trusted when read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geomfast.files import FileError, plain_name, read_sealed, write_sealed
from geomfast.runs.errors import PlanError

NAME = "settings.json"
#: Type of each part; what a folder may lack is not in :data:`_REQUIRED`.
_PARTS: dict[str, type] = {
    "settings": dict,
    "recipes": dict,
    "grid": dict,
    "calls": list,
    "groups": list,
    "hashes": dict,
    "chance": dict,
    "success": dict,
    "sizes": dict,
    "tracking": dict,
}
_REQUIRED = {"settings", "recipes", "grid", "calls"}
#: Lists of a grid that a folder whose runs share what they vary does without.
VARIED = ("learning_rates", "warmups")
#: Largest seed that a column of the records can hold; seeds of populations have 32 bits.
LARGEST_SEED = 2**63 - 1
LARGEST_MEMBER = 2**32 - 1


def write_settings(out: Path, content: dict[str, Any], call: dict[str, Any] | None = None) -> None:
    """Write OUT's ``settings.json``.

    Args:
        out: the folder.
        content: all of it.
        call: one more, for its ``calls``.

    Raises:
        PlanError: it cannot be written.
    """
    path = out / NAME
    calls = content["calls"] if call is None else [*content["calls"], call]
    try:
        write_sealed(path, {**content, "calls": calls})
    except OSError as error:
        raise PlanError(f"cannot write {path}: {error.strerror}") from error


def check_still_there(out: Path) -> None:
    """Check, after work of hours, that OUT is the folder it was.

    Raises:
        FileError: the settings were removed during the work, and so were earlier results.
    """
    if not (out / NAME).exists():
        raise FileError(
            f"{out / NAME} is gone: {out} was removed, moved or replaced while work went on there. "
            "Move it back, or run the same command again"
        )


def read_settings(path: Path, kind: str = "sweep") -> dict[str, Any]:
    """The content of a ``settings.json``; what in it becomes a path is a plain name.

    Args:
        path: of the file.
        kind: of work that the folder has to be of, as its format says it.

    Raises:
        PlanError: it cannot be read, has changed since it was written, is of something else, or
            holds what geomfast does not write.
    """
    try:
        content = read_sealed(path)
        if content.get("format") != f"geomfast {kind} 1" or not content.keys() >= _REQUIRED:
            raise PlanError(f"{path} is not a geomfast {kind}'s")
        _check(content)
    except (FileError, OSError) as error:
        said = str(error) if str(path) in str(error) else f"{path}: {error}"
        if "has changed" in said:
            said += '; if you changed it and mean it so, remove its line "seal"'
        raise PlanError(said) from error
    return content


def _check(content: Mapping[str, Any]) -> None:
    for name, kind in _PARTS.items():
        if name in content and not isinstance(content[name], kind):
            raise FileError(f"{name!r} is not a {kind.__name__}")
    for name in ("calls", "groups"):
        if not all(isinstance(each, dict) for each in content.get(name, [])):
            raise FileError(f"{name!r} holds something else than objects")
    grid = content["grid"]
    for name in ("cadence", "checkpoints"):
        if not isinstance(grid.get(name, {}), dict):
            raise FileError(f"grid.{name} is not an object")
    for name, values in grid.items():
        if name in VARIED:
            _check_varied(f"grid.{name}", values)
        else:
            _check_values(f"grid.{name}", values)
    for seed in grid.get("seeds", []):
        _check_count("grid.seeds", seed, least=0, most=LARGEST_SEED)
    for group in content.get("groups", []):
        _check_group(group)
    names = [group["name"] for group in content.get("groups", [])]
    runs = [run for group in content.get("groups", []) for run in group.get("runs", [])]
    for twice in (names, runs, [*set(names), *set(runs)]):
        if len(set(twice)) < len(twice):
            raise FileError("two groups, or a group and a run, have one name")


def _check_values(where: str, values: Any) -> None:
    """A list of texts or numbers, or texts and numbers or lists of names by name."""
    inside = list(values.values()) if isinstance(values, dict) else values
    if not isinstance(inside, list):
        raise FileError(f"{where} is neither a list nor an object")
    for value in inside:
        if isinstance(value, list):
            _check_values(where, value)
        elif not isinstance(value, str | int) or isinstance(value, bool):
            raise FileError(f"{where} holds {value!r:.60}")


def _check_varied(where: str, values: Any) -> None:
    """A list of positive numbers, and None for what runs have that share one."""
    if not isinstance(values, list) or not values:
        raise FileError(f"{where} is not a list of some")
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value < math.inf):
            raise FileError(f"{where} holds {value!r:.60}")


def _check_group(group: Mapping[str, Any]) -> None:
    plain_name(group.get("name"), "group")
    _check_count("at_once", group.get("at_once"), least=1, most=1 << 20)
    if not {"runs"} <= group.keys() and not {"scale", "seeds"} <= group.keys():
        raise FileError(f"group {group['name']!r} has neither runs nor seeds")
    for name in ("runs", "seeds"):
        if not isinstance(group.get(name, []), list) or group.get(name) == []:
            raise FileError(f"group {group['name']!r}: its {name} are not a list of some")
    for run in group.get("runs", []):
        plain_name(run, "run")
    if "scale" in group:
        plain_name(group["scale"], "scale")
    for seed in group.get("seeds", []):
        _check_count("seed", seed, least=0, most=LARGEST_MEMBER)


def _check_count(where: str, value: Any, *, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise FileError(f"{where} {value!r:.60} is not a whole number from {least} to {most}")


def plain(value: Any) -> Any:
    """A value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))
