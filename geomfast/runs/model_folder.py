"""The folder that measured checkpoints live in, by the rules of a sweep's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geomfast.runs.cadence import Cadence, merge_cadences
from geomfast.runs.folder import check_same_settings
from geomfast.runs.locks import alone
from geomfast.runs.settings_file import NAME as _SETTINGS
from geomfast.runs.settings_file import plain, read_settings, write_settings

KIND = "measurement"


def merge_settings(
    out: Path,
    settings: dict[str, Any],
    of_measures: dict[str, dict[str, Any]],
    checkpoints: Mapping[str, list[str]],
    chance: Mapping[str, float],
    kind: str = KIND,
    cadence: Cadence | None = None,
) -> dict[str, Any]:
    """Content of OUT's ``settings.json``, with these checkpoints and measures added.

    Args:
        out: the folder; nothing is written.
        settings: what all values share: the source, its samples, the type of the weights.
        of_measures: settings of each measure asked for. Those of measures that are not among them
            are as they were, and of those that are new may be anything.
        checkpoints: names of those asked for, by run.
        chance: rate at which blind guesses are right, by task-level name.
        kind: of work that OUT holds.
        cadence: at how many checkpoints each measure is taken; at all where it is not named. None
            where OUT knows no cadence.

    Raises:
        PlanError: OUT belongs to something else, or to a measurement with other settings.
    """
    path = out / _SETTINGS
    settings, of_measures = plain(settings), plain(of_measures)
    grid: dict[str, Any] = {"measures": list(of_measures), "checkpoints": plain(checkpoints)}
    if cadence is not None:
        grid["cadence"] = dict(cadence)
    hashes: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    calls: list[dict[str, Any]] = []
    if path.exists():
        before = read_settings(path, kind)
        known = before["settings"]
        taken = {name: known[name] for name in before["grid"]["measures"]}
        common = {name: value for name, value in known.items() if name not in taken}
        both = {name: value for name, value in taken.items() if name in of_measures}
        check_same_settings(
            out, common | both, settings | {name: of_measures[name] for name in both}, kind
        )
        if cadence is not None:
            # Folders from before there was a cadence were measured at every checkpoint.
            so_far = before["grid"].get("cadence", {})
            grid["cadence"] = merge_cadences(so_far, list(taken), cadence, list(of_measures))
        of_measures = taken | of_measures
        runs = before["grid"]["checkpoints"]
        merged = {
            run: list(dict.fromkeys((*runs.get(run, []), *grid["checkpoints"].get(run, []))))
            for run in (*runs, *(run for run in grid["checkpoints"] if run not in runs))
        }
        grid |= {"measures": list(of_measures), "checkpoints": merged}
        hashes, calls = before.get("hashes", {}), before["calls"]
        sizes = before.get("sizes", {})
    return {
        "format": f"geomfast {kind} 1",
        "settings": {**settings, **of_measures},
        "recipes": {},
        "grid": grid,
        "chance": dict(chance),
        **({"sizes": sizes} if sizes else {}),
        "hashes": hashes,
        "calls": calls,
    }


def remember(
    out: Path, hashes: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int] | None = None
) -> None:
    """Note in OUT's ``settings.json`` what hashes in the records stand for.

    Several processes may measure into one folder; each waits for the others here.

    Args:
        out: the folder.
        hashes: what is to be noted.
        sizes: parameters of the models, by scale.

    Raises:
        PlanError: the file cannot be read.
    """
    with alone(out):
        content = read_settings(out / _SETTINGS, KIND)
        new = {name: told for name, told in plain(hashes).items() if name not in content["hashes"]}
        known = content.get("sizes", {})
        if new or not (sizes or {}).items() <= known.items():
            more = {"sizes": {**known, **sizes}} if sizes else {}
            write_settings(out, content | {"hashes": content["hashes"] | new} | more)
