"""A population's plan and folder: scales, groups that grow, settings that may not change."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from geomfast.files import read_sealed
from geomfast.population import folder
from geomfast.population.folder import groups_of, merge_settings
from geomfast.population.plan import (
    LADDER,
    PopulationSettings,
    check,
    recipe,
    scale_of,
    schedule,
)
from geomfast.runs.errors import PlanError
from geomfast.runs.groups import GROUP_SIZE
from geomfast.runs.settings_file import write_settings

SETTINGS = PopulationSettings("count", 3, (5,), 100, 6, None, 10, 11)


def asked(
    out: Path,
    scales: list[str],
    seeds: range | list[int],
    cadence: dict[str, int] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    settings = dataclasses.replace(SETTINGS, **changes)
    place: Any = {"stack": "always", "device": "cpu", "tokens": 30, "cadence": cadence}
    return merge_settings(out, settings, scales, list(seeds), **place)


def test_scales_are_layers_and_width() -> None:
    scale = scale_of(SETTINGS, "3x48")
    assert (scale.layers, scale.d_model, scale.heads) == (3, 48, 3)
    assert scale.vocabulary == 3 + 2 * 5 and scale.context == 8
    assert scale_of(SETTINGS, "1x8").heads == 1
    sizes = [scale_of(SETTINGS, name).parameters for name in LADDER]
    assert len(sizes) >= 6 and sizes == sorted(set(sizes))
    given = dataclasses.replace(SETTINGS, learning_rate=0.5)
    assert recipe(given, "1x8")["learning_rate"] == 0.5
    for name, why in (("2x", "LAYERSxWIDTH"), ("0x8", "LAYERSxWIDTH"), ("1x40", "multiple of 16")):
        with pytest.raises(PlanError, match=why):
            scale_of(SETTINGS, name)


def test_checkpoints_are_log_spaced_from_the_first_step_to_the_last() -> None:
    at = schedule(dataclasses.replace(SETTINGS, steps=2000, checkpoints=16))
    assert at[0] == 0 and at[-1] == 2000 and 14 <= len(at) <= 17
    assert schedule(dataclasses.replace(SETTINGS, steps=2)) == [0, 2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 2}, "batch_size = 2 is less than train_length = 3"),
        ({"task": "reverse-add", "test_lengths": (30,)}, "length 30: reverse-add"),
        ({"measures": ("rankme", "llc")}, "llc: members go through a pass together.*: rankme"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        check(dataclasses.replace(SETTINGS, **changes))


def test_more_seeds_and_scales_are_new_groups_and_old_ones_stay(tmp_path: Path) -> None:
    first = asked(tmp_path, ["1x16"], range(5))
    assert [group["name"] for group in first["groups"]] == ["count-1x16-seeds0-4"]
    write_settings(tmp_path, first, {"command": "a"})
    more = asked(tmp_path, ["1x16", "2x16"], range(3, 3 + GROUP_SIZE + 6))
    write_settings(tmp_path, more, {"command": "b"})
    again = json.loads((tmp_path / "settings.json").read_text())
    assert again["groups"][0] == first["groups"][0]
    seeds = [group["seeds"] for group in again["groups"]]
    assert [len(part) for part in seeds] == [5, 34, 34, 35, 35]
    assert sorted(seeds[1] + seeds[2]) == list(range(5, 73))
    grid = {"scales": ["1x16", "2x16"], "seeds": list(range(73)), "cadence": {}}
    assert again["grid"] == grid
    assert [told["command"] for told in again["calls"]] == ["a", "b"]
    assert set(again["recipes"]) == {"1x16", "2x16"}
    # Everything that records name by hash is resolved: two measures, two lengths.
    assert len(again["hashes"]) == 4
    chosen = groups_of(again, ["2x16", "1x16"], [4])
    assert [group.name for group in chosen] == ["count-2x16-seeds3-37", "count-1x16-seeds0-4"]
    assert asked(tmp_path, ["1x16"], range(5))["groups"] == again["groups"]


def test_other_settings_are_refused_with_what_differs(tmp_path: Path) -> None:
    write_settings(tmp_path, asked(tmp_path, ["1x16"], range(5)), {})
    with pytest.raises(
        PlanError, match=r"population with other settings:\n(.*\n)?  steps: 100 there, 9 "
    ):
        asked(tmp_path, ["1x16"], range(5), steps=9)
    content = read_sealed(tmp_path / "settings.json")
    content["format"] = "geomfast sweep 1"
    (tmp_path / "settings.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="not a geomfast population's"):
        asked(tmp_path, ["1x16"], range(5))


def test_more_measures_join_also_in_folders_from_before_there_was_a_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = asked(tmp_path, ["1x16"], range(5))
    del content["settings"]["measures"]
    write_settings(tmp_path, content, {"command": "a"})
    assert asked(tmp_path, ["1x16"], range(5))["settings"]["measures"] == ["rankme"]
    assert asked(tmp_path, ["1x16"], range(5), measures=())["settings"]["measures"] == ["rankme"]
    monkeypatch.setattr(folder, "measure_settings", lambda settings, name: {"measure": name})
    more = asked(tmp_path, ["1x16"], range(5), measures=("another",), cadence={"another": 3})
    assert more["settings"]["measures"] == ["rankme", "another"]
    assert more["grid"]["cadence"] == {"another": 3}
    assert content["hashes"].items() <= more["hashes"].items()
    assert {"measure": "another"} in more["hashes"].values()
    write_settings(tmp_path, more, {"command": "b"})
    monkeypatch.undo()  # as where the other's package is not installed
    assert asked(tmp_path, ["1x16"], range(5))["hashes"] == more["hashes"]


@pytest.mark.parametrize("damaged", [5, [["rankme"]], "rankme"])
def test_measures_that_are_no_names_are_refused(tmp_path: Path, damaged: Any) -> None:
    content = asked(tmp_path, ["1x16"], range(5))
    content["settings"]["measures"] = damaged
    write_settings(tmp_path, content, {"command": "a"})
    with pytest.raises(PlanError, match=r"measures: .* there, rankme asked for"):
        asked(tmp_path, ["1x16"], range(5))
