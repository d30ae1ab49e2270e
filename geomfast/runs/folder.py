"""The folder that results go to: whose it is, and what other settings it refuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from geomfast.files import refuse_links
from geomfast.runs.errors import PlanError
from geomfast.runs.settings_file import NAME as _SETTINGS

#: Files and folders that ``geomfast behaviour`` writes.
BEHAVIOUR_OF_HARNESS = ("behaviour", "behaviour.json")


def check_folder(out: Path, *, make: bool = True) -> None:
    """Check that OUT is, or can be, a sweep's folder.

    Args:
        out: the folder.
        make: whether to make it where it is missing.

    Raises:
        PlanError: a file, not writable, or a folder of something else.
        UnsafeName: a link in it leads out of it.
    """
    if out.exists() and not out.is_dir():
        raise PlanError(f"{out} is a file; OUT must be a folder")
    if not out.exists() and not make:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(f"cannot make {out}: {error.strerror}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise PlanError(f"{out} is not writable")
    # Hidden files may be our lock, or the remains of a first write that was killed.
    # What geomfast behaviour wrote joins what is measured here.
    visible = [
        entry
        for entry in out.iterdir()
        if not entry.name.startswith(".") and entry.name not in BEHAVIOUR_OF_HARNESS
    ]
    if visible and not (out / _SETTINGS).exists():
        raise PlanError(f"{out} is not empty and has no {_SETTINGS}: not a sweep's folder")
    refuse_links(out)


def check_same_settings(
    out: Path, before: dict[str, Any], now: dict[str, Any], kind: str = "sweep"
) -> None:
    """Refuse to put results of other settings into a folder.

    Args:
        out: the folder.
        before, now: its settings and those asked for, of one level of nesting.
        kind: of work.

    Raises:
        PlanError: they differ; shows in what.
    """
    changed = []
    for key in sorted({*before, *now}):
        there, here = before.get(key), now.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            inside = [k for k in sorted({*there, *here}) if there.get(k) != here.get(k)]
            # What a setting of the sweep says already need not be said again for every scale.
            changed += [
                f"  {key}.{k}: {_show(there.get(k))} there, {_show(here.get(k))} asked for"
                for k in inside
                if before.get(k) == now.get(k)
            ]
        elif there != here:
            changed.append(f"  {key}: {_show(there)} there, {_show(here)} asked for")
    if changed:
        raise PlanError(
            f"{out} belongs to a {kind} with other settings:\n" + "\n".join(changed) + "\n"
            "Choose another folder, or ask for the same settings."
        )


def _show(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
