"""Contents of ``settings.json`` as text: for the page, captions and comparisons of two sweeps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from geomfast.analysis.events import THRESHOLDS
from geomfast.files import DamagedFile, read_sealed
from geomfast.records import FINAL, RecordsError, block
from geomfast.report.curves import samples_of
from geomfast.report.names import one_line

#: A value longer than this is not shown on the page; it is in settings.json.
LONGEST = 800
#: Keys of a call that tell sweeps apart without being settings.
_OF_THE_CALL = ("date", "command")


def read_settings(path: Path) -> dict[str, Any]:
    """Content of settings.json; empty when there is none.

    Raises:
        RecordsError: it is not a JSON object, or has changed since it was written.
    """
    if not path.exists():
        return {}
    try:
        return read_sealed(path)
    except DamagedFile as error:
        raise RecordsError(str(error)) from error


def calls(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls of ``geomfast sweep`` that made the records, as settings.json lists them."""
    listed = settings.get("calls")
    return [c for c in listed if isinstance(c, dict)] if isinstance(listed, list) else []


def readable_settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same as :func:`shown_settings` without hashes, for readers."""
    return shown_settings(_without_hashes(settings))


def _without_hashes(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {k: _without_hashes(v) for k, v in value.items() if k not in ("hashes", "seal")}
        return {name: part for name, part in kept.items() if part not in ("", {})}
    if isinstance(value, list):
        return [_without_hashes(item) for item in value]
    return "" if isinstance(value, str) and re.fullmatch("[0-9a-f]{16,}", value) else value


def loss_unit(settings: Mapping[str, Any]) -> str:
    """The unit of the loss: of a tracker by the name of its function, of a sweep as recorded."""
    own = settings.get("settings")
    name = own.get("loss") if isinstance(own, dict) else None
    if isinstance(name, str):
        return "nats per token" if name == "next_token" else f"units of {one_line(name)[:24]}"
    hashes = settings.get("hashes")
    known = [x for x in hashes.values() if isinstance(x, dict)] if isinstance(hashes, dict) else []
    losses = (str(entry["loss"]) for entry in known if entry.get("loss"))
    return next(losses, "nats per token").removesuffix(", mean")


def peak_rates(settings: Mapping[str, Any]) -> dict[str, float]:
    """Peak learning rate of every scale whose recipe has one."""
    recipes = settings.get("recipes")
    known = recipes.items() if isinstance(recipes, dict) else ()
    return {
        scale: float(recipe["learning_rate"])
        for scale, recipe in known
        if isinstance(recipe, dict) and isinstance(recipe.get("learning_rate"), int | float)
    }


def shown_settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and text of every setting that is a scalar, a list or one level of names."""
    rest = {name: value for name, value in settings.items() if name not in ("calls", "recipes")}
    recipes = settings.get("recipes")
    if isinstance(recipes, dict):
        rest |= {f"recipe of {scale}": recipe for scale, recipe in recipes.items()}
    for name in ("command", "date", "machine", "versions"):
        said = [call[name] for call in calls(settings) if name in call]
        said = [value for index, value in enumerate(said) if value not in said[:index]]
        if said:
            rest[name] = said[0] if len(said) == 1 else said
    shown = []
    for name, value in rest.items():
        if isinstance(value, dict):
            texts = {key: _flat(item) for key, item in value.items()}
            text = "; ".join(f"{key} {item}" for key, item in texts.items() if item)
        else:
            text = _flat(value)
        if text and len(text) <= LONGEST:
            shown.append((name, text))
    return shown


def taken_how(records: pd.DataFrame, settings: Mapping[str, Any], measures: Iterable[str]) -> str:
    """The samples and settings of some measures, for the caption of a figure.

    Args:
        records: the table of :func:`geomfast.records.load_records`.
        settings: content of settings.json, whose ``hashes`` resolve the settings of records.
        measures: their names; those without records are left out.

    Returns:
        Samples and settings of every measure, and the criterion of emergence where ``accuracy`` is
        among them, without settings that settings.json does not resolve.
    """
    hashes = settings.get("hashes")
    hashes = hashes if isinstance(hashes, dict) else {}
    texts = []
    for measure in measures:
        rows = records[records["measure"] == measure]
        if rows.empty:
            continue
        parts = [f"n = {samples_of(rows)}"]
        for name in rows["settings"].unique():
            known = hashes.get(name)
            if isinstance(known, dict):
                parts += [
                    f"{key} {_flat(value)}"
                    for key, value in known.items()
                    if key not in ("measure", "samples")
                ]
        texts.append(f"{measure}: {', '.join(dict.fromkeys(parts))}")
        if measure == "accuracy":
            low = f"{THRESHOLDS['accuracy']:g}"
            texts.append(f"emergence: accuracy above chance at {low} or more for 5 checkpoints")
    return "; ".join(texts)


def cadence(settings: Mapping[str, Any], run: str, records: pd.DataFrame) -> str:
    """The number of measured steps of a tracked run, of those that were due, and what limited it.

    Args:
        settings: content of settings.json.
        run: its name.
        records: the run's.
    """
    tracking = settings.get("tracking")
    tracking = tracking.get(run) if isinstance(tracking, dict) else None
    steps = records["step"].nunique()
    if not isinstance(tracking, dict) or not {"due", "overhead", "max_overhead"} <= tracking.keys():
        return f"{steps} step{'s' * (steps != 1)} measured"
    due, overhead = max(tracking["due"], steps), tracking["overhead"]
    text = f"{steps} of {due} due steps measured"
    if steps < due and tracking.get("thinned_from") is not None:
        # A tracker that resumed the run may have had another budget, or none.
        share = tracking.get("thinned_by", tracking["max_overhead"])
        which = "a budget" if share is None else f"the budget (max_overhead = {share:g})"
        text += f", as {which} left others out from step {tracking['thinned_from']:,} on"
    if fewer := _fewer(tracking, steps):
        text += f"; {fewer}"
    digits = ".0f" if overhead >= 0.1 else ".2g"
    return f"{text}; measuring added {100 * overhead:{digits}}% to the time of training"


def _fewer(tracking: Mapping[str, Any], steps: int) -> str:
    """Measures that the budget limited to fewer steps than others."""
    counts = tracking.get("measures")
    counts = counts if isinstance(counts, dict) else {}
    return ", ".join(
        f"{name} at {one['measured']} of {one['due']}"
        for name, one in counts.items()
        if one["measured"] < steps and one.get("thinned_from") is not None
    )


def tracked_how(settings: Mapping[str, Any], run: str, records: pd.DataFrame) -> str:
    """Cadence and layer names of a tracked run, for the captions of its figures.

    Args:
        settings, run, records: as in :func:`cadence`.
    """
    own = settings.get("settings")
    layers = own.get("layers") if isinstance(own, dict) else None
    names = []
    if isinstance(layers, list) and (records["measure"] == "rankme").any():
        labels = [*(block(i + 1) for i in range(len(layers) - 1)), FINAL]
        names = [f"{label}: {name}" for label, name in zip(labels, layers, strict=True)]
    return "; ".join([cadence(settings, run, records), *names])


def differences(ours: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, our text and the other's of every setting in which two sweeps differ.

    Command, date and hashes are not compared; versions and machine are those of the last call.
    """
    one, two = _by_name(ours), _by_name(other)
    rows = [(name, one.get(name, "–"), two.get(name, "–")) for name in dict.fromkeys((*one, *two))]
    return [row for row in rows if row[1] != row[2]]


def _by_name(settings: Mapping[str, Any]) -> dict[str, str]:
    """Every setting as text, by dotted name."""
    rest = {name: value for name, value in settings.items() if name not in ("calls", "hashes")}
    if last := calls(settings)[-1:]:
        rest |= {name: value for name, value in last[0].items() if name not in _OF_THE_CALL}
    found: dict[str, str] = {}

    def visit(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, part in value.items():
                visit(f"{name}.{key}" if name else str(key), part)
        else:
            found[name] = _flat(value, digits=17) or "none"

    visit("", rest)
    return found


def _flat(value: Any, digits: int = 4) -> str:
    """A scalar, a list or one level of names as text; empty for None."""
    if isinstance(value, list):
        return ", ".join(_flat(item, digits) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{key} {item}" for key, item in value.items() if _is_plain(item))
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        # repr has all digits that are significant, and none of rounding.
        return f"{value:.{digits}g}" if digits < 17 else repr(value).removesuffix(".0")
    return str(value)


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict | list) and value is not None
